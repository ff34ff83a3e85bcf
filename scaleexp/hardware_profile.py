"""Hardware profiles: numbers of one accelerator, each with its source and date.

In the repository they live in clusters/hardware; in a wheel, in scaleexp/hardware.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from scaleexp.config_messages import one_sentence
from scaleexp.errors import ConfigError
from scaleexp.study_files import named_files, read_named_or_path
from scaleexp.study_parts import Part, Positive, PositiveReal

IsoDate = Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]


class Source(Part):
    """Where numbers were read, and when."""

    fields: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Which numbers of the profile."""
    title: str
    """Document, as its publisher names it."""
    url: str
    """Where it is."""
    published: IsoDate
    """Its own date."""


class HardwareProfile(Part):
    """One accelerator as its data sheet and price list describe it; peaks, not what a workload attains."""

    name: str
    """As the vendor writes it."""
    memory_bytes: Positive
    """Memory of the device [bytes]."""
    memory_bytes_per_s: PositiveReal
    """Peak bandwidth of that memory."""
    peak_fp32_flop_per_s: PositiveReal
    """Peak dense rate, 32-bit floats outside of tensor cores."""
    peak_fp16_flop_per_s: PositiveReal
    """Peak dense rate, 16-bit floats on tensor cores."""
    price_usd_per_hour: PositiveReal | None
    """Public list price of one device with its share of the host, on demand; null where none can be cited."""
    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)]
    """A source for every number."""

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        sourced = {field for source in self.sources for field in source.fields}
        numbers = {field for field, value in self if isinstance(value, int | float)}
        if numbers - sourced:
            raise ValueError(f"sources name no source for {', '.join(sorted(numbers - sourced))}")
        if sourced - numbers:
            raise ValueError(f"sources name {', '.join(sorted(sourced - numbers))}, of which there is no number")
        return self


def builtin_hardware() -> dict[str, Traversable]:
    """Profiles that ship with the package, by name."""
    installed = resources.files("scaleexp") / "hardware"
    checkout = Path(__file__).parent.parent / "clusters" / "hardware"
    return named_files(installed if installed.is_dir() else checkout)


def read_hardware(name_or_path: str) -> HardwareProfile:
    """Profile of a built-in name or of a path.

    Raises:
        ConfigError: if there is no such profile, or it is not valid.
    """
    raw, source = read_named_or_path(name_or_path, builtin_hardware(), "hardware profile")
    try:
        return HardwareProfile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"In {source}: {one_sentence(error, HardwareProfile)}") from None
