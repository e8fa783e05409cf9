"""C: what can be written as a header, and what is refused."""

from __future__ import annotations

from sb3_clanker.actor.actor import Actor
from sb3_clanker.errors import FormatError
from sb3_clanker.formats.c import find_compiler, seal
from sb3_clanker.options import ExportOptions
from sb3_clanker.run_folder.names import C_HEADER, FileKind
from sb3_clanker.writers.c.graph import UnsupportedError
from sb3_clanker.writers.c.header import Header
from sb3_clanker.writers.further import FurtherWriter, Original


class CWriter(FurtherWriter):
    """A header in C99, generated from the ``.onnx``."""

    format = "c"

    def refuse(self, actor: Actor, options: ExportOptions) -> None:  # noqa: ARG002
        if not options.c_unproven and find_compiler() is None:
            raise FormatError(
                "c",
                "there is no C compiler to prove it by",
                "Install one, such as gcc or clang, or name it in the environment variable CC. To have the header "
                "without a proof, ask for c_unproven=True.",
            )

    def unproven(self, options: ExportOptions) -> str | None:
        return "there is no C compiler" if options.c_unproven and find_compiler() is None else None

    def write(self, original: Original) -> dict[FileKind, bytes]:
        try:
            header = Header(original.data, original.metadata, original.name)
        except UnsupportedError as error:
            raise FormatError("c", f"it has {error}", "Use the .onnx, or another format.") from error
        most = original.options.c_max_bytes
        if header.n_constant_bytes > most:
            raise FormatError(
                "c",
                f"it has {header.n_constant_bytes:,} bytes of weights, and c_max_bytes is {most:,}",
                "Use a smaller network, or ask for more bytes.",
            )
        return {C_HEADER: seal(header.text(original.vectors, unproven=self.unproven(original.options)))}
