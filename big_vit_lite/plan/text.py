"""A plan as text for people."""

from __future__ import annotations

from big_vit_lite.plan.make import Plan
from big_vit_lite.plan.remedies import Trial

_NAMED = {
    "compute": "compute",
    "memory": "memory bandwidth",
    "interconnect": "interconnect",
    "network": "network between slices",
}


def describe(plan: Plan) -> str:
    """The whole report, but for changes that were tried."""
    lines = [_title(plan), "", "memory of a device", *_memory(plan)]
    if plan.compiled:
        lines += ["", "between devices, in a step", *_collectives(plan)]
        lines += ["", "a step", *_time(plan)]
    if plan.assumed:
        lines += ["", "assumed", *(f"  {sentence}" for sentence in plan.assumed)]
    return "\n".join(lines)


def trial_line(trial: Trial) -> str:
    """One change that was tried."""
    plan = trial.plan
    verdict = "fits" if plan.fits else "does not fit"
    return f"  {gib(plan.peak_bytes)}  {verdict:<12}  {trial}  ({trial.meaning})"


def _title(plan: Plan) -> str:
    axes = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    where = f"{plan.topology}: " if plan.topology else ""
    shown = ", ".join(
        f"{name} {value}"
        for name, value in plan.settings.items()
        if name in ("remat", "dtype") or (name == "accumulate" and value > 1)
    )
    axes = f" ({axes})" if axes else ""
    return (
        f"{plan.model} ({plan.parameters / 1e6:,.1f} M parameters), batch {plan.batch_size:,}, on "
        f"{where}{plan.devices} x {plan.device_kind}{axes}; {shown}; compiled in "
        f"{plan.compile_s:.0f} s"
    )


def _memory(plan: Plan) -> list[str]:
    limit = "" if plan.limit_bytes is None else f" of {gib(plan.limit_bytes).strip()}"
    lines = [f"  state      {gib(plan.state_bytes)}"]
    if plan.uneven:
        lines.append(
            f"    an even split of {gib(plan.whole_state_bytes).strip()} over fsdp "
            f"{plan.mesh['fsdp']} would be less: what does not divide by it stays whole; a smaller "
            "mesh.fsdp with more mesh.data may take less"
        )
    if not plan.compiled:
        lines.append(f"  peak       {gib(plan.peak_bytes)}{limit}: DOES NOT FIT, by the compiler")
        return lines
    donated = "all of the state" if plan.aliased_bytes >= plan.state_bytes else "NOT ALL of it"
    verdict = {True: "fits", False: "DOES NOT FIT", None: "limit not known"}[plan.fits]
    lines += [
        f"  donated    {gib(plan.aliased_bytes)}, {donated}",
        f"  peak       {gib(plan.peak_bytes)}{limit}: {verdict}",
        f"    arguments {gib(plan.argument_bytes).strip()} + outputs "
        f"{gib(plan.output_bytes).strip()} - donated {gib(plan.aliased_bytes).strip()} "
        f"+ temporaries {gib(plan.temporary_bytes).strip()}",
    ]
    return lines


def _collectives(plan: Plan) -> list[str]:
    if not plan.collectives:
        return ["  nothing"]
    lines = [f"  {'':<20}{'in program':>12}{'executed':>10}{'received':>13}"]
    for kind, total in plan.collectives.items():
        moved = amount(total.bytes + total.network_bytes)
        other = f", {amount(total.network_bytes)} of other slices" if total.network_bytes else ""
        lines.append(f"  {kind:<20}{total.count:>12,}{total.executed:>10,}{moved:>13}{other}")
    return lines


def _time(plan: Plan) -> list[str]:
    lines = [f"  analytic FLOPs               {plan.flops:.4g}"]
    lines.append(f"  main memory                  {amount(plan.memory_bytes)} read and written")
    for name, seconds in plan.floors.items():
        lines.append(f"  {_NAMED[name] + ' alone':<29}{seconds * 1e3:.1f} ms at least")
    if plan.roofline_s is None:
        lines.append("  no floor: the rates of this device are not known")
        return lines
    share = f", MFU at most {100 * plan.mfu:.0f} %" if plan.mfu else ""
    rate = plan.images_per_s
    lines.append(
        f"  at least {plan.roofline_s * 1e3:.1f} ms: {_NAMED[plan.dominates]} dominates; at most "
        f"{rate:,.0f} images/s, {rate / plan.devices:,.0f} a device{share}"
    )
    return lines


def gib(size: int) -> str:
    """'  2.96 GiB', or MiB below a tenth of one."""
    if size < 0.1 * 2**30:
        return f"{size / 2**20:6.1f} MiB"
    return f"{size / 2**30:6.2f} GiB"


def amount(size: int) -> str:
    """'51.4 GB', '0.3 MB': what moves, in powers of ten as rates are."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
