"""The command line: what a pod's entry point and a person type. Each command imports what it needs when it is called:
`porter-ha why` must not wait for what a manager needs.
"""

import click

from porter_ha import __version__
from porter_ha.cli import ask, develop, install, pods


@click.group()
@click.version_option(__version__)
def main() -> None:
    """EIPs for Kubernetes Services on bare metal, announced to routers over BGP."""


for room in (pods, ask, install, develop):
    for command in room.COMMANDS:
        main.add_command(command)
