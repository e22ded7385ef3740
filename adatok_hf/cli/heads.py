"""The heads as adapters that the PEFT library reads and writes: heads export and heads import."""

from pathlib import Path
from typing import Annotated

import typer

from .common import ModelOption, app, load_model, prepare_folder


heads_app = typer.Typer(help="Exchange the decoder's heads with the PEFT library.", no_args_is_help=True)
app.add_typer(heads_app, name="heads")


@heads_app.command(name="export")
def export_command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the adapter folders go.")],
    model: ModelOption = None,
):
    """Write every head of a model as a PEFT adapter folder, budget_0032 and so on."""
    from ..conversion.heads import export_heads
    from ..files import check_empty

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, _ = load_model(model, "cpu")
    export_heads(network, out, model_id)
    typer.echo(f"{len(network.config.budgets)} heads written to {out}")


@heads_app.command(name="import")
def import_command(
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
    from ..conversion.heads import find_adapters, import_heads, save_imported
    from ..files import check_empty
    from ..hub import find_folder

    check_empty(out)
    prepare_folder(out.absolute().parent)
    network, model_id, processor = load_model(model, "cpu")
    replaced = ", ".join(map(str, import_heads(network, find_adapters(adapters))))
    facts = {"heads": f"those of the budgets {replaced} imported from {adapters}, the rest as in {model_id}"}
    save_imported(find_folder(model or default_checkpoint()), out, network, processor, facts)
    typer.echo(f"Heads of the budgets {replaced} imported from {adapters}, written to {out}")
