"""Lists the networks."""

from collections.abc import Sequence

from landscape import command, nets


def main(argv: Sequence[str]) -> int:
    """Print a table of names and parameter counts."""
    parser = command.Parser("landscape.nets", "Every network's name and number of parameters.")
    parser.add_argument("--num-classes", type=command.positive, default=100, metavar="N", help="default: 100")
    parser.add_argument(
        "--width", type=command.positive, default=64, metavar="N", help="channels of the first stage (default: 64)"
    )
    parser.add_argument("--stem", action="store_true", help="the ImageNet stem")
    arguments = parser.parse_args(argv)
    import torch

    rows = []
    for name in nets.names():
        # On the meta device a network has shapes and no memory.
        with torch.device("meta"):
            model = nets.build(name, num_classes=arguments.num_classes, width=arguments.width, stem=arguments.stem)
        rows.append([name, f"{nets.parameter_count(model):,}"])
    print(command.columns(["network", "parameters"], rows))
    return 0
