"""The verdict of campaigns for people: a page each, pictures, a summary in the terminal."""

from chaos.report.files import write
from chaos.report.summary import print_summary

__all__ = ["print_summary", "write"]
