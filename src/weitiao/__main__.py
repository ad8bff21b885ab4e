"""The command weitiao, also python -m weitiao."""

from weitiao.system.allocator import start_with_best


def main() -> None:
    start_with_best()
    # what the first start would have loaded in vain
    from weitiao.commands.app import main as run

    run()


if __name__ == "__main__":
    main()
