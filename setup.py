"""Builds the compiled parts: two cffi modules (the core, the image tools) and the programs."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "native"))  # one build script imports the other


class BuildNative(build_ext):
    """build_ext that also builds the programs of native/Makefile (into obdsup/_bin)."""

    def run(self) -> None:
        programs = ["ringd", "sectors", "faultfs"]  # faultfs is not installed: for chaos runs here
        subprocess.run(["make", "-s", "-C", str(ROOT / "native"), *programs], check=True)
        super().run()


setup(
    cffi_modules=["native/obd_build.py:ffibuilder", "native/tools_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
)
