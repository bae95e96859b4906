"""The plan as text. What the compiler said and what is an estimate is marked line by line."""

_GIB = 2**30


def text(plan: dict) -> str:
    memory, time, run = plan["memory"], plan["time"], plan["whole_run"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    remat = plan["remat"]
    if plan["remat_blocks"]:
        remat = f"full in {plan['remat_blocks']} blocks, then {remat}"
    lines = [
        f"{plan['recipe']} on {plan['topology']}: {plan['chips']} chips as {mesh or 'one'}, "
        f"{plan['images_per_step']} images a step, remat {remat}",
        "",
        f"Memory of a chip ({memory['source']})",
    ]
    for name in ("student", "teacher", "gram_teacher", "frozen_teacher", "optimizer"):
        if memory[name]:
            lines.append(f"  {name.replace('_', ' '):16}{memory[name] / _GIB:8.2f} GiB  exact")
    if memory["activations"] is not None:
        lines.append(f"  {'all else':16}{memory['activations'] / _GIB:8.2f} GiB")
    verdict = "fits" if memory["fits"] else "DOES NOT FIT"
    total = "     ?   " if memory["total"] is None else f"{memory['total'] / _GIB:8.2f} "
    lines.append(f"  {'total':16}{total}GiB of {memory['capacity'] / _GIB:.2f}: {verdict}")
    if plan.get("error"):
        lines.append(f"  {plan['error']}")
    if "collectives" in plan:
        lines += ["", "Collectives of a step, bytes a chip receives (compiler)"]
        for kind, row in plan["collectives"].items():
            lines.append(
                f"  {kind:20}{row['count']:6}  {row['bytes'] / 1e9:8.2f} GB  "
                f"{row['asynchronous']:6.1%} asynchronous, largest {row['largest'] / 1e6:.0f} MB"
            )
    flops, money = plan["flops"], ""
    if run["money"] is not None:
        money = f", {run['money']:,.0f} at {run['price_per_chip_hour']} a chip-hour"
    mean, size, whole = run["mean_of_largest"], "", "bound"
    if mean != 1.0:
        size = " of the largest crops, {} and {} pixels, as all above".format(*plan["crops"])
        whole = f"MFU, a mean step having {mean:.1%} of that FLOP"
    lines += [
        "",
        f"Time of a step{size}",
        f"  {flops['step']:.3e} FLOP, {flops['image'] / 1e12:.2f} TFLOP an image (exact)",
        f"  {time['floor']:7.3f} s at the chips' peak",
    ]
    if time["compiler"]:
        lines.append(
            f"  {time['compiler']:7.3f} s by the compiler's cycles, kernels and collectives apart"
        )
    if "collectives" in plan:
        lines.append(
            f"  {time['hidden']:7.3f} s of asynchronous and {time['exposed']:.3f} s of synchronous "
            "collectives at the links' peak (estimate)"
        )
    lines += [
        f"  {time['bound']:7.3f} s at least, MFU {time['mfu_bound']:.0%} at most: a bound, not a "
        "forecast:",
        "            all that may overlap does, and nothing stalls"
        + (", and Pallas kernels take no time" if time["compiler"] else ""),
        "",
        f"The whole recipe at that {whole} ({run['steps']:,} steps, {run['images']:,} images)",
        f"  {run['days']:.1f} days, {run['chip_hours']:,.0f} chip-hours" + money,
        f"  {run['images_per_second']:,.0f} images/s, about {run['host_cores']:.1f} host cores "
        "(estimate)",
        f"  {plan['checkpoint_bytes'] / 1e9:.1f} GB a checkpoint (exact)",
    ]
    if "compile_seconds" in plan:
        lines.append(f"  compiled in {plan['compile_seconds']} s here")
    return "\n".join(lines)


def ranking(plans: list[dict]) -> str:
    """A table of the plans of a sweep that fit, best first."""
    rows = ["rank  mesh (r x f x m)  remat                    images  GiB     bound s  MFU bound"]
    for i, plan in enumerate(plans, start=1):
        mesh = " x ".join(str(plan["mesh"][axis]) for axis in ("replica", "fsdp", "fsdp_minor"))
        memory, time = plan["memory"]["total"] / _GIB, plan["time"]
        rows.append(
            f"{i:4}  {mesh:16}  {plan['remat']:24} {plan['images_per_step']:6}  {memory:6.2f}  "
            f"{time['bound']:7.3f}  {time['mfu_bound']:6.0%}"
        )
    return "\n".join(rows) if len(rows) > 1 else "nothing that was tried fits"
