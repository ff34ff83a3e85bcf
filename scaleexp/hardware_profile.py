"""Hardware profiles: numbers of one accelerator, each with its source and date.

In the repository they live in clusters/hardware; in a wheel, in scaleexp/hardware.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

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
    peak_tf32_flop_per_s: PositiveReal | None = None
    """Peak dense rate, 32-bit floats rounded to 10 bits of mantissa, on tensor cores."""
    peak_fp16_flop_per_s: PositiveReal | None = None
    """Peak dense rate, 16-bit floats on tensor cores."""
    peak_bf16_flop_per_s: PositiveReal | None = None
    """Peak dense rate, brain floats on tensor cores."""
    workers_per_node: Positive | None = None
    """Devices of one machine."""
    intra_node_bytes_per_s: PositiveReal | None = None
    """Peak of the link between two devices of a machine, of one device, one way."""
    intra_node_latency_s: PositiveReal | None = None
    """Of one message over that link."""
    inter_node_bytes_per_s: PositiveReal | None = None
    """Peak of the network between machines, of one device, one way: that of the machine over its devices."""
    inter_node_latency_s: PositiveReal | None = None
    """Of one message over that network."""
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


Precision = Literal["fp32", "tf32", "fp16", "bf16"]


def peak_flop_per_s(profile: HardwareProfile, precision: Precision) -> float:
    """Peak dense rate at one precision.

    Raises:
        ConfigError: the profile does not say it.
    """
    found: float | None = getattr(profile, f"peak_{precision}_flop_per_s")
    if found is None:
        known = [name for name in get_args(Precision) if getattr(profile, f"peak_{name}_flop_per_s") is not None]
        raise ConfigError(
            f"the profile of {profile.name} has no peak_{precision}_flop_per_s: take {' or '.join(known)}."
        )
    return found


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
