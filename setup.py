"""The compiled kernels of the events engine; everything else stands in pyproject.toml.

The extension is optional: without g++ or clang the installation succeeds and leaves the kernels out.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("snnconv/engines/cpp")

setup(
    ext_modules=[
        Extension(
            "snnconv.engines._kernels",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in [*SOURCES.glob("*.h"), *SOURCES.glob("*.hpp")]),
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            language="c++",
            optional=True,
        )
    ]
)
