"""Networks in files: ours as safetensors with the recipe in the header, others' read as data that runs nothing."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.checkpoint.loading import (
        Checkpoint as Checkpoint,
        load as load,
        read_history as read_history,
        read_recipe as read_recipe,
    )
    from landscape.checkpoint.saving import save as save


lazy.attach(__name__)
