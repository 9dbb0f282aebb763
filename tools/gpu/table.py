#!/usr/bin/env python3
"""Set what tools/gpu/run.sh has measured beside what it should reach.

    python3 tools/gpu/table.py OUT        OUT: run.sh's folder, also one that was cut off

Writes OUT/table.md and OUT/table.json, a row for each measurement; of one that is missing, why. Where a side was measured in
several rounds, its median counts. Numbers in brackets are those with run.deterministic=true, the default, and are not judged.
"""
import json
import pathlib
import re
import statistics
import sys

CASES = ("resnet50-2", "resnet50-8", "resnet101-2", "resnet101-8")
METHODS = ("supervised", "pseudo_label", "mean_teacher", "fixmatch", "unimatch", "unimatch_v2", "augseg", "prevmatch", "cps",
           "u2pl")
NEEDED = {"fp32": "segmentation_models_pytorch", "bf16": "segmentation_models_pytorch", "compile": "segmentation_models_pytorch"}
COLUMNS = ("what", "ours", "peer", "ratio", "bar", "met")
# Of the loss: batch, classes, logits' and labels' pixels.
B, K, LOGITS, PIXELS = 4, 19, 128 * 256, 512 * 1024


class Missing(Exception):
    """Why there is no number."""


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


class Results:
    def __init__(self, out):
        self.out = out
        self.machine = read_json(out / "peers-machine.json") or {}

    def ending(self, name):
        """A part's exit code; Missing where it was not run."""
        try:
            return int((self.out / f"{name}.end").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            raise Missing("not run") from None

    def last_line(self, name):
        try:
            lines = (self.out / f"{name}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return (lines or ["no message"])[-1].strip()[:120].replace("|", "/")

    def value(self, name, number):
        """Median over the rounds of number(JSON object)."""
        rounds = sorted(self.out.glob(f"{name}-[0-9]*.end"))
        found, problem = [], None
        for end in rounds:
            code, result = self.ending(end.stem), read_json(end.with_suffix(".json"))
            if code in (124, 137):
                problem = f"cut off after {end.read_text().split()[1]} s"
            elif code or not isinstance(result, dict):
                problem = self.last_line(end.stem)
            elif "error" in result:
                problem = result["error"]
            else:
                try:
                    found.append(number(result))
                except (KeyError, TypeError, ZeroDivisionError):
                    problem = "this device gives no such number"
        if found:
            return statistics.median(found)
        if not rounds:
            side = name.rsplit("-", 1)[-1]
            package = NEEDED.get(side, "torchmetrics" if name == "peers-confusion-peer" else None)
            if package in self.machine.get("missing", {}):
                problem = f"{package} is missing: {self.machine['missing'][package]}"
        raise Missing(problem or "not run")


def attempt(function, *arguments):
    """A value and None, or None and why there is none."""
    try:
        return function(*arguments), None
    except Missing as why:
        return None, str(why)


def shown(value, why, form):
    if value is not None:
        return form.format(value)
    return why if why == "out of memory" else f"not measured: {why}"


def row(what, ours, peer, ratio, bar, met, /, **values):
    met = met if isinstance(met, str) else "yes" if met else "no"
    return dict(zip(COLUMNS, (what, ours, peer, ratio, bar, met))) | {"values": values}


def compared(what, bar, ours, peer, form, brackets=None, share=False):
    """ours, peer: (value, why). The ratio is peer's over ours, to be at least `bar`; a share ours over peer's, to be under it."""
    (our, our_why), (their, their_why) = ours, peer
    default = brackets[0] if brackets else None
    our_text = shown(our, our_why, form) + (f" ({form.format(default)})" if default is not None else "")
    ratio_of = (lambda x: x / their) if share else (lambda x: their / x)
    ratio_form = "{:.0%}" if share else "{:.2f}x"
    bar_text = f"< {bar:.0%}" if share else f">= {bar:g}x"
    ratio, ratio_text, met = None, "", ""
    if our is not None and their is not None:
        ratio = ratio_of(our)
        ratio_text = ratio_form.format(ratio) + (f" ({ratio_form.format(ratio_of(default))})" if default is not None else "")
        met = ratio < bar if share else ratio >= bar
    return row(what, our_text, shown(their, their_why, form), ratio_text, bar_text, met,
               ours=our, deterministic=default, peer=their, ratio=ratio)


def share_row(what, bar, ours, brackets):
    (value, why), default = ours, brackets[0]
    text = shown(value, why, "{:.1%}") + (f" ({default:.1%})" if default is not None else "")
    return row(what, text, "", "", f"< {bar:.0%}", "" if value is None else value < bar, ours=value, deterministic=default)


def step_ms(result):
    # The median: a step in which torch.compile still compiled must not count against the peer.
    return statistics.median(result["step_ms_all"]) if result.get("step_ms_all") else result["step_ms"]


def describe(results, case):
    backbone, batch = case.rsplit("-", 1)
    name = f"{backbone.replace('resnet', 'ResNet-')} FPN, {batch} + {batch}"
    log = results.out / f"peers-{case}-ours-1.log"
    if log.exists() and (line := re.search(r", crop (\d+)x\d+, .*", log.read_text(errors="replace"))):
        name += f", crop {line[1]}"
    return name, int(batch)


def step_rows(results, cases):
    values = lambda case, side, number: attempt(results.value, f"peers-{case}-{side}", number)
    rows = []
    for side, peer in (("fp32", "published Python step, fp32"), ("bf16", "the same in bf16, channels-last"),
                       ("compile", "the same in bf16, channels-last, compiled")):
        for case in cases:
            name, batch = describe(results, case)
            bar = {"fp32": 3, "bf16": 1.3 if batch == 2 else 1, "compile": 1}[side]
            rows.append(compared(f"UniMatch step, {name}; {peer}", bar, values(case, "ours", lambda r: r["step_ms"]),
                                 values(case, side, step_ms), "{:.1f} ms", values(case, "deterministic", lambda r: r["step_ms"])))
    memory = lambda r: r["peak_memory_mb"]
    for case in cases:
        rows.append(compared(f"peak memory, {describe(results, case)[0]}; published Python step, fp32", 0.5,
                             values(case, "ours", memory), values(case, "fp32", memory), "{:.0f} MiB",
                             values(case, "deterministic", memory), share=True))
    for what, bar, number in (
            ("the GPU waits for the host in a step", 0.03, lambda r: r["device_idle_share"]),
            ("data wait in a step, PNG files", 0.05, lambda r: r["parts"]["data wait"] / r["step_ms"])):
        for case in cases:
            rows.append(share_row(f"{what}, {describe(results, case)[0]}", bar, values(case, "ours", number),
                                  values(case, "deterministic", number)))
    return rows


def operation_rows(results, cases):
    rows = []
    for operation, what, bar in (
            ("loss", "upsample + cross-entropy, forward + backward, [4, 19, 128, 256] -> 512x1024, bf16; torch.nn.functional", 6),
            ("confusion", "logits [1, 19, 256, 512] in bf16 -> confusion matrix of 1024x2048; F.interpolate + torchmetrics", 15)):
        for key, kind in (("device_ms", "GPU busy"), ("ms", "by the clock, host included")):
            sides = [attempt(results.value, f"peers-{operation}-{side}", lambda r: r[key]) for side in ("ours", "peer")]
            rows.append(compared(f"{what}; {kind}", bar, *sides, "{:.4f} ms"))

    def limits():
        machine, problems = results.machine, []
        for case in cases:
            copy_gb_s, why = attempt(results.value, f"peers-{case}-ours", lambda r: r["copy_gb_s"])
            if copy_gb_s:
                break
        if not copy_gb_s:
            problems.append(f"copy bandwidth: {why}")
        if not machine.get("multiprocessors") or not machine.get("max_sm_mhz"):
            problems.append("multiprocessors or their clock are unknown")
        if problems:
            raise Missing(", ".join(problems))
        moved = B * (K * LOGITS * (2 + 4) + PIXELS * 8)  # bf16 logits and int64 labels read, a float32 gradient written
        exponentials = B * K * PIXELS / (16 * machine["multiprocessors"])  # cycles
        return moved / copy_gb_s / 1e6, exponentials / machine["max_sm_mhz"] / 1e3

    ours, why = attempt(results.value, "peers-loss-ours", lambda r: r["device_ms"])
    limit, limit_why = attempt(limits)
    ratio = ours / max(limit) if ours is not None and limit else None
    rows.insert(2, row("the same loss, GPU busy; the slower of what memory and the exponential units allow",
                       shown(ours, why, "{:.4f} ms"),
                       "memory {:.4f} ms, exponentials {:.4f} ms".format(*limit) if limit else f"not measured: {limit_why}",
                       f"{ratio:.2f}x" if ratio else "", "<= 2x", "" if ratio is None else ratio <= 2, ours=ours, limits=limit,
                       ratio=ratio))
    return rows


def test_rows(results):
    rows = []
    tests, code = read_json(results.out / "tests.json"), attempt(results.ending, "tests")
    if tests and code[0] is not None:
        every = [test for suite in tests["testsuites"] for test in suite["testsuite"]]
        failed = sum("failures" in test for test in every)
        skipped = sum(test["result"] == "SKIPPED" for test in every)
        passed = len(every) - failed - skipped
        text = f"{passed} passed, {failed} failed, {skipped} skipped" + (f", exit code {code[0]}" if code[0] else "")
        met = passed > 0 and failed == 0 and code[0] == 0
    else:
        text = "not measured: " + (code[1] or f"exit code {code[0]}: {results.last_line('tests')}")
        met = "no" if code[0] else ""
    rows.append(row("tests that need a GPU", text, "", "", "none fails", met))

    endings = {"demo": attempt(results.ending, "resume")}
    endings |= {method: attempt(results.ending, f"resume-{method}") for method in METHODS}
    run = {method: code for method, (code, _) in endings.items() if code is not None}
    failing = [f"{method} ({code})" for method, code in run.items() if code]
    text = f"{len(run) - len(failing)} of {len(endings)} are exact" if run else "not measured: not run"
    text += "; exit code not 0: " + ", ".join(failing) if failing else ""
    text += f"; {len(endings) - len(run)} not run" if 0 < len(run) < len(endings) else ""
    met = "no" if failing else "yes" if len(run) == len(endings) else ""
    rows.append(row("a cut and resumed training equals a whole one: a preset and each method", text, "", "", "all", met))

    for tool in ("memcheck", "racecheck"):
        code, why = attempt(results.ending, f"sanitizer-{tool}")
        if code == 127:
            code, why = None, "there is no compute-sanitizer"
        if code in (124, 137):
            code, why = None, "cut off"
        rows.append(row(f"compute-sanitizer, {tool}, on the kernels", shown(code, why, "exit code {}"), "", "", "exit code 0",
                        "" if code is None else code == 0))
    return rows


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: table.py OUT")
    results = Results(pathlib.Path(sys.argv[1]))
    if not results.out.is_dir():
        sys.exit(f"{results.out}: no such folder")
    measured = [end.stem.removeprefix("peers-").removesuffix("-ours-1") for end in results.out.glob("peers-resnet*-ours-1.end")]
    cases = [*CASES, *sorted(set(measured) - set(CASES))]
    rows = [*step_rows(results, cases), *operation_rows(results, cases), *test_rows(results)]

    machine = results.machine
    gpu = results.out / "gpu.txt"
    gpus = gpu.read_text().strip().splitlines() if gpu.exists() else [machine.get("gpu", "unknown")]
    versions = {"torch": machine.get("torch"), **machine.get("versions", {})}
    lines = [f"GPU: {'; '.join(gpus)}" + ("  (parts of this table are of different machines)" if len(gpus) > 1 else "")]
    if machine:
        peers = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines += ["", f"Peers: {peers}. In brackets: with run.deterministic=true, the default."]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(r[column] or "-" for column in COLUMNS) + " |" for r in rows]
    count = {answer: sum(r["met"] == answer for r in rows) for answer in ("yes", "no", "")}
    summary = f"{count['yes']} met, {count['no']} not met, {count['']} not measured"
    lines += ["", summary]
    (results.out / "table.md").write_text("\n".join(lines) + "\n")
    (results.out / "table.json").write_text(json.dumps({"gpu": gpus, "machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"table: {results.out / 'table.md'}: {summary}")


if __name__ == "__main__":
    main()
