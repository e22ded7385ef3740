"""`adatok push`: a checkpoint to the Hub."""

from typing import Annotated

import typer


def push(
    checkpoint: Annotated[str, typer.Argument(help="Folder with the model and its processor, or a pipeline.")],
    repo_id: Annotated[str, typer.Argument(help="Hub repository, for example someone/adatok-small.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only you see.")] = False,
):
    """Send a checkpoint or a pipeline to the Hugging Face Hub, code and model card included."""
    from ..checkpoint import push_checkpoint
    from ..generation.push_pipeline import is_pipeline, push_pipeline

    push = push_pipeline if is_pipeline(checkpoint) else push_checkpoint
    typer.echo(push(checkpoint, repo_id, private=private))
