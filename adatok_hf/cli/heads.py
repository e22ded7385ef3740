"""`adatok heads export` and `adatok heads import`: the heads as adapters that the PEFT library reads and writes."""

from pathlib import Path
from typing import Annotated

import typer

from .common import load_model, prepare_folder
from .options import ModelOption


def export_heads(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the adapter folders go.")],
    model: ModelOption = None,
):
    """Write every head of a model as a PEFT adapter folder, budget_0032 and so on."""
    from ..conversion import heads
    from ..files import check_empty

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, _ = load_model(model, "cpu")
    heads.export_heads(network, out, model_id)
    typer.echo(f"{len(network.config.budgets)} heads written to {out}")


def import_heads(
    adapters: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTERS",
            help="Folder or Hub id with PEFT adapters in budget_0032 and so on, or one such folder.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the copy of the model with these heads goes.")],
    model: ModelOption = None,
):
    """Make a copy of a model with some or all heads replaced by PEFT adapters that were trained on its decoder."""
    from .. import default_checkpoint
    from ..conversion import heads
    from ..files import check_empty
    from ..hub import find_folder

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, processor = load_model(model, "cpu")
    replaced = ", ".join(map(str, heads.import_heads(network, heads.find_adapters(adapters))))
    facts = {"heads": f"those of the budgets {replaced} imported from {adapters}, the rest as in {model_id}"}
    heads.save_imported(find_folder(model or default_checkpoint()), out, network, processor, facts)
    typer.echo(f"Heads of the budgets {replaced} imported from {adapters}, written to {out}")
