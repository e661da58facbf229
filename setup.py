from setuptools import setup

setup()  # all metadata stands in pyproject.toml
