"""What the C library says of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Adapter:
    """A GPU, or software in the place of one."""

    index: int
    name: str
    #: ``discrete``, ``integrated``, ``virtual``, ``cpu`` or ``other``
    type: str
    #: ``vulkan``, ``metal`` or ``dx12``
    backend: str
    driver: str
    shader_f16: bool
    #: in bytes; 0 where the driver does not tell
    memory_bytes: int
    max_storage_buffer_binding_size: int
    max_buffer_size: int

    @staticmethod
    def _of(info: Any) -> "Adapter":
        kinds = ["other", "discrete", "integrated", "virtual", "cpu"]
        kind = kinds[info.adapter_type] if info.adapter_type < len(kinds) else "other"
        return Adapter(
            info.index, info.name.decode(), kind, info.backend.decode(), info.driver.decode(), bool(info.shader_f16),
            info.memory_bytes, info.max_storage_buffer_binding_size, info.max_buffer_size,
        )


Adapter.__module__ = "retto"
