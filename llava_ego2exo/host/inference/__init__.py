"""From clips and questions to replies or option scores, for teachers, students and benchmarks."""
