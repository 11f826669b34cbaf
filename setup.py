"""Package discovery: the folders hw, sw, sim and configs are the packages rowmesh.*."""

from setuptools import find_packages, setup

setup(
    packages=[
        name
        for top in ("hw", "sw", "sim", "configs")
        for name in (
            f"rowmesh.{top}",
            *(f"rowmesh.{top}.{sub}" for sub in find_packages(top)),
        )
    ]
)
