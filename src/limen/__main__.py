"""`python -m limen`"""

from limen.cli.main import run

if __name__ == "__main__":
    run()
