"""What every long run needs: processes, progress, files that are never half-written, clips read ahead."""
