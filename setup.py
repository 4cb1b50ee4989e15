"""Packaging of llava-ego2exo: light by default, everything heavy behind an extra.

No requirement here names torch, transformers or llava: the plugin uses those the user has and must
never make pip replace them (the `doctor` command compares them with the tested sets instead).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "llava_ego2exo/__init__.py").read_text()).group(1)

setup(
    name="llava-ego2exo",
    version=VERSION,
    description="Ego-to-exo distillation and Ego Adaptive Visual Tokens for LLaVA (Ego2ExoVLM, arXiv 2501.05711)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["llava_ego2exo", "llava_ego2exo.*"]),
        "llava_ego2exo.patches",
        "llava_ego2exo.lmms_tasks",
    ],
    package_dir={"llava_ego2exo.patches": "patches", "llava_ego2exo.lmms_tasks": "eval"},
    package_data={
        "llava_ego2exo": ["py.typed", "**/templates/*", "demo/bases/*"],
        "llava_ego2exo.patches": ["*.patch", "*.md"],
        "llava_ego2exo.lmms_tasks": ["*.j2"],
    },
    install_requires=["einops>=0.6.1", "wrapt>=1.14"],
    extras_require={
        "flash": ["flash-attn>=2.5"],
        "qlora": ["bitsandbytes>=0.43", "peft>=0.10"],
        "eval": ["av>=14", "jinja2>=3", "matplotlib>=3.7", "pillow>=9", "snowballstemmer>=2"],
        "judge": ["openai>=1.30"],
        "report": ["jinja2>=3", "matplotlib>=3.7", "pillow>=9"],
        "pairs": ["av>=14"],
        "serve": ["av>=14", "fastapi>=0.110", "pillow>=9", "prometheus-client>=0.17", "uvicorn>=0.23"],
        "watch": ["av>=14", "paho-mqtt>=2", "pillow>=9"],
        "dev": ["pytest>=7", "hypothesis>=6", "ruff>=0.6"],
    },
    entry_points={
        "console_scripts": ["llava-ego2exo=llava_ego2exo.cli:main"],
        "llava.plugins": ["ego2exo=llava_ego2exo:register"],
        "lmms_eval.models": ["ego2exo=llava_ego2exo.lmms.plugin:manifests"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
