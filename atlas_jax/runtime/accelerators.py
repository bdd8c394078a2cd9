"""Peak speeds of accelerators, by the name that jax gives them."""

# Dense bfloat16 operations a second of one jax device, from the makers' data sheets. A TPU v2 or v3
# chip is two devices, a later chip is one.
_PEAK_FLOPS = {
    'TPU v2': 22.5e12,
    'TPU v3': 61.5e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v5p': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100': 312e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H200': 989e12,
    'NVIDIA L4': 121e12, }


def peak_flops(device_kind: str) -> float | None:
    """Returns the operations a second of a device; None if the table does not have it, such as a
    CPU.
    """
    # The longest matching name: "NVIDIA H100 PCIe" begins with "NVIDIA H100", another device.
    known = [
        name for name in _PEAK_FLOPS
        if device_kind == name or device_kind.startswith((f'{name} ', f'{name}-'))]
    return _PEAK_FLOPS[max(known, key=len)] if known else None
