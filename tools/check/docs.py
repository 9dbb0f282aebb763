#!/usr/bin/env python3
"""Runs the commands that the README and docs/ tell people to type.

    python3 tools/check/docs.py [PAGE ...]        such as docs/resuming.md; all pages without one

Blocks are told by the words behind their fence:
    sh            every command is run and must exit with 0
    sh elsewhere  needs a cluster, a network or hours: the syntax is checked, and that `semiseg train CONFIG ...` lines are accepted settings
    yaml FILE     the block is written to FILE, before the commands below it; the same for text, csv, cpp and bash (whose syntax is checked)
Each page has a folder of its own, in which `build`, `configs`, `tools` and `models` are the repository's. Trainings are made tiny by
settings appended to their command line, and the paths that pages speak of (/data/cityscapes, resnet50.pth, ...) hold drawn scenes.
Links between pages must lead somewhere. Run from anywhere; SEMISEG names another program than build/semiseg.
"""
import concurrent.futures
import os
import pathlib
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEMISEG = pathlib.Path(os.environ.get("SEMISEG", ROOT / "build" / "semiseg")).resolve()
FENCE = re.compile(r"^```(\S*) ?(.*)$")

# What is made small, behind what a page says.
TINY = ["data.crop=32", "data.workers=1", "model.backbone=resnet18", "optim.batch_labeled=2", "optim.epochs=1"]
TINY_SCENES = ["data.size=[32,64]", "data.counts=[4,6,2]"]
# Stands in for `semiseg`.
WRAPPER = f"""#!/bin/bash
tiny=()
if [[ $1 == train || $1 == bench ]] && [[ $* != *--resume* && $* != *--help* ]]; then
  tiny=({' '.join(map(shlex.quote, TINY))})
  [[ $2 != *synthetic* ]] || tiny+=({' '.join(map(shlex.quote, TINY_SCENES))})
fi
exec {shlex.quote(str(SEMISEG))} "$@" "${{tiny[@]}}"
"""
# What scripts for clusters find in their environment.
ENVIRONMENT = {"SCRATCH": "/scratch", "run": "/scratch/run", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "8"}


class Block:
    def __init__(self, page, line, language, words):
        self.page, self.line, self.language, self.words, self.text = page, line, language, words, []


def blocks_of(page):
    blocks, block = [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if block is None and fence:
            block = Block(page, number, fence[1], fence[2].split())
        elif block is not None and line.strip() == "```":
            blocks.append(block)
            block = None
        elif block is not None:
            block.text.append(line)
    if block is not None:
        sys.exit(f"{page}:{block.line}: this block does not end")
    return blocks


def commands_of(block):
    """Line number and command; comments are left out, lines that end in a backslash are joined."""
    command, first = "", 0
    for number, line in enumerate(block.text, block.line + 1):
        if not command:
            first = number
        command += line
        if command.endswith("\\"):
            command = command[:-1]
            continue
        if command.strip() and not command.lstrip().startswith("#"):
            yield first, command.strip()
        command = ""


def png(path, rows, colour_type):
    """Writes rows of bytes as an 8-bit PNG: colour type 0 is grey, 2 RGB."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    width = len(rows[0]) // (3 if colour_type == 2 else 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), 8, colour_type, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


def draw_pictures(folder, names, height=48, width=64):
    """images/NAME.png and labels/NAME.png of three classes, each image another."""
    for number, name in enumerate(names):
        png(folder / f"images/{name}.png",
            [bytes((x * (number + c + 2) + 5 * y + x * y % 29) % 256 for x in range(width) for c in range(3)) for y in range(height)], 2)
        png(folder / f"labels/{name}.png", [bytes((x + 4 * number) * 3 // (width + 32) for x in range(width)) for _ in range(height)], 0)


def make_data(data):
    """What stands in for the data sets and weights that pages speak of."""
    def semiseg(*words):
        subprocess.run([SEMISEG, *words], cwd=data, check=True, stdout=subprocess.DEVNULL)
    draw_pictures(data / "mine", "abcdefgh")
    draw_pictures(data / "camvid", "abcdefgh")
    splits = {"1_8/labeled": "ab", "1_8/unlabeled": "cdef", "val": "gh"}
    for name, members in splits.items():
        path = data / f"camvid/splits/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"images/{m}.png labels/{m}.png\n" for m in members))
    semiseg("synth", "cityscapes", "--train", "8", "--val", "2", "--size", "64x128")
    images = sorted((data / "cityscapes/leftImg8bit/train").rglob("*.png"))
    for name, members in {"labeled": images[:2], "unlabeled": images[2:]}.items():  # as UniMatch writes them
        path = data / f"cityscapes/splits/1_8/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [(m.relative_to(data / "cityscapes"), label_of(m).relative_to(data / "cityscapes")) for m in members]
        path.write_text("".join(f"{image} {label}\n" for image, label in pairs))
    semiseg("train", str(ROOT / "configs/synthetic/demo.yaml"), "run.dir=weights", *TINY, *TINY_SCENES)
    shutil.copy(data / "weights/checkpoints/last.safetensors", data / "resnet50.pth")


def label_of(image):
    return pathlib.Path(str(image).replace("_leftImg8bit.png", "_gtFine_labelTrainIds.png").replace("leftImg8bit", "gtFine"))


class Page:
    """One page in a folder of its own."""

    def __init__(self, path, work, data):
        self.path, self.data = path, data
        self.name = str(path.relative_to(ROOT))
        self.folder = work / self.name.replace("/", "_")
        self.folder.mkdir()
        self.problems, self.times, self.run_count, self.checked_count = [], [], 0, 0
        for name in ("configs", "tools", "models", "docs", "examples"):
            if (ROOT / name).exists():
                (self.folder / name).symlink_to(ROOT / name)
        (self.folder / "build").mkdir()
        wrapper = self.folder / "build/semiseg"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        (self.folder / "resnet50.pth").symlink_to(data / "resnet50.pth")
        (self.folder / "photos").symlink_to(data / "mine/images")
        self.environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", "PATH": f"{self.folder}/build:{os.environ['PATH']}"}

    def here(self, text):
        return re.sub(r"/data/(cityscapes|mine|camvid)\b", rf"{self.data}/\1", text)

    def bash(self, command, *flags):
        return subprocess.run(["bash", *flags, "-c", self.here(command)], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120)

    def problem(self, line, what, output=""):
        tail = "".join("\n    " + part for part in output.strip().splitlines()[-6:])
        self.problems.append(f"{self.name}:{line}: {what}{tail}")

    def run(self, line, command):
        self.run_count += 1
        begin = time.time()
        done = self.bash(command)
        self.times.append((time.time() - begin, f"{self.name}:{line}: {command}"))
        if done.returncode:
            self.problem(line, f"exit code {done.returncode}: {command}", done.stdout)

    def check_script(self, block):
        """The syntax of commands that cannot run here, and whether the settings in them are known and fit together."""
        script = "\n".join(block.text)
        syntax = self.bash(script, "-n")
        if syntax.returncode:
            self.problem(block.line, "this is no valid shell script", syntax.stdout)
        for number, command in commands_of(block):
            for config, settings in re.findall(r"semiseg train (\S+\.yaml)((?: \S+=\S+)*)", command):
                self.checked_count += 1
                done = self.bash(f"semiseg config {config}{settings}")
                if done.returncode:
                    self.problem(number, f"not accepted: {config}{settings}", done.stdout)

    def check(self):
        for block in blocks_of(self.path):
            if block.language == "sh" and block.words not in ([], ["elsewhere"]):
                self.problem(block.line, f"unknown mark: {' '.join(block.words)}")
            elif block.language == "sh" and not block.words:
                for line, command in commands_of(block):
                    self.run(line, command)
            elif block.language == "sh":
                self.check_script(block)
            elif block.words:
                (self.folder / block.words[0]).write_text(self.here("\n".join(block.text) + "\n"))
                if block.language == "bash":
                    self.check_script(block)
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#\S*)?\)", self.path.read_text()):
            if not (self.path.parent / target).exists():
                self.problem(1, f"a link leads nowhere: {target}")
        shutil.rmtree(self.folder)  # its checkpoints
        return self


def main():
    pages = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    begin = time.time()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        data = work / "data"
        data.mkdir()
        make_data(data)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            checked = list(pool.map(lambda path: Page(path, work, data).check(), pages))
    problems = [problem for page in checked for problem in page.problems]
    for page in checked:
        print(f"docs: {page.name}: {page.run_count} commands run, {page.checked_count} checked, {len(page.problems)} problems")
    for seconds, command in sorted((each for page in checked for each in page.times), reverse=True)[:3]:
        print(f"docs: slowest: {seconds:.1f} s {command}")
    print("\n".join(problems))
    print(f"docs: {'failed' if problems else 'passed'} in {time.time() - begin:.0f} s")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
