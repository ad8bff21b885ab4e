"""The command weitiao, also python -m weitiao."""

from weitiao.allocator import start_with_best


def main() -> None:
    start_with_best()
    # what the first start would have loaded in vain
    from weitiao.cli import main as run

    run()


if __name__ == "__main__":
    main()
