#!/usr/bin/env bash
# What a user sees for each kind of bad input: the exit code, and exactly one line on stderr that names the file or key. Kinds of
# unusual but good input are among them: they must pass.
#
#   bash tools/check/bad_input.sh [PATTERN]     PATTERN: only the kinds whose name matches
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

only=${1:-}
semiseg=$(realpath "${SEMISEG:-build/semiseg}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache  # what check keeps
passed=0 failed=0

# --- the data: eight small images with labels, then one broken file of each kind ---

python3 - "$work" <<'PY'
import base64, json, math, os, pathlib, pickle, struct, sys, zlib

work = pathlib.Path(sys.argv[1])
H, W, K = 64, 96, 3

def png(path, rows, depth, colour, palette=b"", height=H):
    """Writes a PNG from rows of packed bytes; colour type as in the PNG specification."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(b"\0" + row for row in rows)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, height, depth, colour, 0, 0, 0)) +
                     (chunk(b"PLTE", palette) if palette else b"") + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))

def label_rows(change=None):
    rows = [bytearray((x * K // W for x in range(W))) for _ in range(H)]
    if change:
        y, x, value = change
        rows[y][x] = value
    return rows

def image(path, seed, height=H):
    rows = [bytes((x * (seed + c + 2) + y * 7 + (x * y) % 31) % 256 for x in range(W) for c in range(3)) for y in range(height)]
    png(path, rows, 8, 2, height=height)

for n in range(8):
    image(work / f"images/{n}.png", n)
    png(work / f"labels/{n}.png", label_rows(), 8, 0)

good = (work / "images/0.png").read_bytes()
(work / "images/cut.png").write_bytes(good[:len(good) // 2])
jpeg = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71////m8H////6/+b9//j/2wBDASst"
    "LTw1PHZBQXb4pYyl+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj/wAARCABAAEADASIAAhEBAxEB/8QAFwABAQEBAAAA"
    "AAAAAAAAAAAAAgEEBf/EABUQAQEAAAAAAAAAAAAAAAAAAAEA/8QAGAEBAQEBAQAAAAAAAAAAAAAAAgMFAQT/xAAWEQEBAQAAAAAAAAAAAAAAAAABAAL/2gAMAwEA"
    "AhEDEQA/AOWEgkFQvStzLQJBUJBFauWISCQSCK1ssQkEgkEVrZbKEgkEgktk5YhIJBIIrVyxCQSCQRWtliEgkFQitbLZgkEgqElsnLQJBUJBFa2WISCQSCK1csQkEgkE"
    "VrZbKEgkEgktk5YhIJBIIrWyxCQSCQRWrliEgkFQitbLf//Z")
(work / "images/cut.jpg").write_bytes(jpeg[:-80])
(work / "labels/lossy.jpg").write_bytes(jpeg)
(work / "images/text.png").write_text("this is no image\n")
(work / "images/nothing.png").write_bytes(b"")
image(work / "images/tall.png", 1, height=H + 32)

(work / "labels/cut.png").write_bytes((work / "labels/0.png").read_bytes()[:60])
png(work / "labels/range.png", label_rows((5, 9, 7)), 8, 0)
png(work / "labels/deep.png", [bytes(b for x in range(W) for b in (0, x * K // W)) for _ in range(H)], 16, 0)
png(work / "labels/colour.png", [bytes(b for x in range(W) for b in (128, 64, 128)) for _ in range(H)], 8, 2)
png(work / "labels/other_colour.png", [bytes(b for x in range(W) for b in (129, 64, 128)) for _ in range(H)], 8, 2)
png(work / "labels/palette.png", label_rows(), 8, 3, palette=bytes((128, 64, 128, 70, 70, 70, 220, 20, 60)))

(work / "classes.yaml").write_text("classes:\n  - {name: road}\n  - {name: building}\n  - {name: person}\n")
(work / "classes2.yaml").write_text("classes:\n  - {name: road}\n  - {name: building}\n  - {name: person}\n  - {name: sky}\n")
(work / "colours.yaml").write_text("classes:\n  - {name: road, colour: [128, 64, 128]}\n  - {name: building}\n  - {name: person}\n")
(work / "classes_twice.yaml").write_text("classes:\n  - {name: road, id: 0}\n  - {name: building, id: 0}\n")

def lines(name, *rows, newline="\n"):
    (work / name).write_bytes((newline.join(rows) + newline).encode() if rows else b"")

pairs = [f"images/{n}.png labels/{n}.png" for n in range(8)]
lines("train.txt", *pairs[:4])
lines("val.txt", *pairs[4:6])
(work / "scores.csv").write_text("epoch,miou,mean_class_accuracy,pixel_accuracy\n1,.2,.3,.8\n")
lines("unlabeled.txt", *(f"images/{n}.png" for n in range(6, 8)))
lines("windows.txt", *pairs[:4], newline="\r\n")
lines("blank.txt", "", pairs[0], "", "  ", *pairs[1:4], "")
lines("absolute.txt", *(f"{work}/images/{n}.png {work}/labels/{n}.png" for n in range(2)), *pairs[2:4])
lines("empty.txt")
lines("only_blank.txt", "", "  ")
lines("palette.txt", *pairs[:3], "images/3.png labels/palette.png")
for name, row in {
        "no_image": "images/99.png labels/0.png", "no_label": "images/3.png labels/99.png", "image_alone": "images/3.png",
        "three_words": "images/3.png labels/3.png labels/4.png",
        "cut_png": "images/cut.png labels/3.png", "cut_jpg": "images/cut.jpg labels/3.png", "text": "images/text.png labels/3.png",
        "nothing": "images/nothing.png labels/3.png", "tall": "images/tall.png labels/3.png", "cut_label": "images/3.png labels/cut.png",
        "range": "images/3.png labels/range.png", "deep": "images/3.png labels/deep.png", "colour": "images/3.png labels/colour.png",
        "other_colour": "images/3.png labels/other_colour.png", "folder": "images labels/3.png",
        "lossy": "images/3.png labels/lossy.jpg"}.items():
    lines(f"{name}.txt", *pairs[:3], row)

def config(name, text):
    (work / f"{name}.yaml").write_text(text)

BASE = f"""data:
  format: list
  root: {work}
  labeled: train.txt
  unlabeled: unlabeled.txt
  val: val.txt
  classes: classes.yaml
  crop: 64
  workers: 1
model:
  backbone: resnet18
optim:
  batch_labeled: 2
  lr: 0.01
"""
config("good", BASE + "  steps: 2\n")
config("unknown_key", BASE + "  steps: 2\n  learning_rate: 0.1\n")
config("typo_section", BASE + "  steps: 2\nmodle:\n  dropout: 0\n")
config("syntax", BASE + "  steps: [2\n")
config("not_a_map", "- data\n")
config("both_totals", BASE + "  steps: 2\n  epochs: 2\n")
config("no_total", BASE)
config("twice", BASE + "  steps: 2\n  steps: 3\n")
config("no_base", "base: nowhere.yaml\n" + BASE + "  steps: 2\n")
config("cycle", "base: cycle.yaml\n" + BASE + "  steps: 2\n")

def safetensors(name, tensors):
    header, data = {}, b""
    for key, (shape, values) in tensors.items():
        packed = struct.pack(f"<{math.prod(shape)}f", *values)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    (work / name).write_bytes(struct.pack("<Q", len(text)) + text + data)

stem = 64 * 3 * 7 * 7
safetensors("nan.safetensors", {"conv1.weight": ([64, 3, 7, 7], [math.nan] + [0.0] * (stem - 1)), "bn1.weight": ([64], [1.0] * 64)})
safetensors("shape.safetensors", {"conv1.weight": ([64, 3, 3, 3], [0.0] * 64 * 27), "bn1.weight": ([64], [1.0] * 64)})
safetensors("other.safetensors", {"something.else": ([4], [0.0] * 4)})
data = (work / "shape.safetensors").read_bytes()
(work / "cut.safetensors").write_bytes(data[:len(data) // 2])

class Attack:
    def __reduce__(self):
        return os.mkdir, (str(work / "attacked"),)
(work / "attack.pth").write_bytes(pickle.dumps({"conv1.weight": Attack()}, protocol=2))
PY
"$semiseg" synth "$work/city" --train 2 --val 1 --size 64x128 --seed 1 >/dev/null
cat >"$work/city.yaml" <<YAML
data: {format: cityscapes, root: $work/city, crop: 64}
model: {backbone: resnet18}
optim: {steps: 1}
YAML
mkdir "$work/folder" "$work/city_without_labels"
touch "$work/a_file"
cp -r "$work/city/leftImg8bit" "$work/city_without_labels/"
"$semiseg" train "$work/good.yaml" run.dir="$work/run" >/dev/null
checkpoint=$work/run/checkpoints/last.safetensors
head -c 100000 "$checkpoint" >"$work/torn.safetensors"
cp "$checkpoint" "$work/flipped.safetensors"
printf '\xff\xff\xff\xff' | dd of="$work/flipped.safetensors" bs=1 seek=$(($(stat -c %s "$checkpoint") / 2)) conv=notrunc status=none

# --- the table ---

# kind NAME CODE PATTERN WORDS...: runs semiseg WORDS in an empty folder. PATTERN must be in the line on stderr; with CODE 0
# nothing may be there.
kind() {
  local name=$1 expected=$2 pattern=$3 code=0 line problems=()
  shift 3
  [[ -z $only || $name =~ $only ]] || return 0
  rm -rf "$work/here" "$work/new"
  mkdir "$work/here"
  (cd "$work/here" && exec "$semiseg" "$@") >"$work/out" 2>"$work/err" </dev/null || code=$?
  line=$(head -n 1 "$work/err")
  ((code == expected)) || problems+=("exit code $code, not $expected")
  if ((expected == 0)); then
    [[ ! -s $work/err ]] || problems+=("stderr is not empty")
  else
    [[ $(wc -l <"$work/err") == 1 && $line == "semiseg: error: "* ]] || problems+=("not exactly one line 'semiseg: error: ...'")
    [[ $line == *$pattern* ]] || problems+=("the line does not name '$pattern'")
    if grep -qE 'terminate called|frame #|Exception raised' "$work/err" "$work/out"; then problems+=("a stack trace"); fi
    # Training that became non-finite leaves its run folder; nothing else leaves anything.
    if ((expected != 4)) && [[ -e $work/new || -n $(ls -A "$work/here") ]]; then
      problems+=("left behind: $(cd "$work" && find here new -type f 2>/dev/null | paste -sd ' ')")
    fi
  fi
  [[ ! -e $work/attacked ]] || problems+=("code of a pickle was executed")
  line=${line//$work\//}
  printf '%-34s %3d  %s\n' "$name" "$code" "${line:-(accepted)}"
  if ((${#problems[@]})); then
    failed=$((failed + 1))
    printf '  FAILED: %s\n' "${problems[@]}"
  else
    passed=$((passed + 1))
  fi
}
# The same config with settings on the command line.
train() { kind "$1" "$2" "$3" train "$work/good.yaml" run.dir="$work/new" "${@:4}"; }
list() { train "$1" 3 "$2" data.labeled="$3.txt" optim.batch_labeled=4; }

printf '%-34s %3s  %s\n' kind exit "what the user sees"
kind "unknown verb" 2 train trian
kind "no config given" 2 "" train
kind "unknown flag" 2 json eval "$checkpoint" --jsn x
kind "config file missing" 2 nowhere.yaml train nowhere.yaml
kind "config is not YAML" 2 syntax.yaml train "$work/syntax.yaml"
kind "config is not a map" 2 not_a_map.yaml train "$work/not_a_map.yaml"
kind "unknown key" 2 learning_rate train "$work/unknown_key.yaml"
kind "typo in a section" 2 model train "$work/typo_section.yaml"
kind "key given twice" 2 steps train "$work/twice.yaml"
kind "epochs and steps both" 2 optim.epochs train "$work/both_totals.yaml"
kind "neither epochs nor steps" 2 optim.epochs train "$work/no_total.yaml"
kind "base file missing" 2 nowhere.yaml train "$work/no_base.yaml"
kind "base file includes itself" 2 cycle.yaml train "$work/cycle.yaml"
train "typo in a key=value" 2 optim.lr optim.lrr=1
train "wrong type" 2 optim.lr optim.lr=fast
train "value out of range" 2 optim.lr optim.lr=-1
train "typo in a method" 2 fixmatch semi.method=fixmach
train "one image to mix with itself" 2 optim.batch_unlabeled semi.method=unimatch_v2 data.unlabeled=unlabeled.txt optim.batch_unlabeled=1
train "typo in a backbone" 2 resnet50 model.backbone=resnet51
train "crop of zero" 2 data.crop data.crop=0
train "device that is not there" 2 run.device run.device=cuda:99
train "class file missing" 2 nowhere.yaml data.classes=nowhere.yaml
train "class ids given twice" 2 classes_twice.yaml data.classes="$work/classes_twice.yaml"
train "fraction above 1" 2 data.labeled data.format=cityscapes data.root="$work/city" data.classes=cityscapes data.labeled=3/2 \
  data.unlabeled= data.val=
train "weights for too few classes" 2 loss.class_weights "loss.class_weights=[1, 2]"

train "list is a folder" 2 "is a folder" data.labeled=.
train "list file missing" 2 nowhere.txt data.labeled=nowhere.txt
list "list is empty" empty.txt empty
list "list of blank lines" only_blank.txt only_blank
list "image missing" 99.png no_image
list "label missing" 99.png no_label
list "labelled line without label" image_alone.txt image_alone
list "line with three paths" three_words.txt three_words
list "truncated PNG" cut.png cut_png
list "truncated JPEG" cut.jpg cut_jpg
list "text named .png" text.png text
list "image of 0 bytes" nothing.png nothing
list "image and label of two sizes" 3.png tall
list "truncated label" labels/cut.png cut_label
list "label value out of range" labels/range.png range
list "16-bit label" labels/deep.png deep
list "colour label" labels/colour.png colour
train "colour of no class" 3 other_colour.png data.classes="$work/colours.yaml" data.labeled=other_colour.txt
list "lossy label" labels/lossy.jpg lossy
list "folder instead of an image" folder.txt folder
for broken in cut_png cut_jpg text nothing tall cut_label range deep colour lossy no_image no_label folder; do
  kind "check: $broken" 3 problem check "$work/good.yaml" data.labeled=$broken.txt
done
kind "check finds a bad label" 3 range.png check "$work/good.yaml" data.labeled=range.txt
kind "dry run of broken data" 3 cut.png train "$work/good.yaml" --dry-run data.labeled=cut_png.txt optim.batch_labeled=4
kind "dry run of a run" 2 dry-run train --resume "$work/run" --dry-run
kind "data folder missing" 3 nowhere train "$work/city.yaml" data.root="$work/nowhere"
kind "Cityscapes without gtFine" 3 gtFine train "$work/city.yaml" data.root="$work/city_without_labels"

train "weights file missing" 7 nowhere.pth model.weights="$work/nowhere.pth"
train "weights with NaN" 7 nan.safetensors model.weights="$work/nan.safetensors"
train "weights of another shape" 7 conv1.weight model.weights="$work/shape.safetensors"
train "weights of another network" 7 other.safetensors model.weights="$work/other.safetensors"
train "truncated weights" 7 cut.safetensors model.weights="$work/cut.safetensors"
train "pickle that runs code" 7 attack.pth model.weights="$work/attack.pth"
train "cache folder that is a file" 6 a_file data.cache="$work/a_file"
train "weights that are an image" 7 0.png model.weights="$work/images/0.png"
kind "torn checkpoint" 7 torn.safetensors eval "$work/torn.safetensors"
kind "checkpoint with a wrong byte" 7 flipped.safetensors eval "$work/flipped.safetensors"
kind "wrong class count" 2 classes eval "$checkpoint" "$work/good.yaml" data.classes="$work/classes2.yaml"
kind "weights file without a config" 2 config eval "$work/nan.safetensors"
kind "eval a folder" 7 folder eval "$work/folder"
kind "init with other labels" 3 "belong together" init "$work/new" --images "$work/city/leftImg8bit" --labels "$work/labels" \
  --classes "$work/classes.yaml"
kind "init without classes" 2 --classes init "$work/new" --images "$work/images" --labels "$work/labels"
kind "network that is not there" 7 nope.safetensors eval "$work/nope.safetensors"
kind "predictions over labels" 2 labels eval "$checkpoint" "$work/good.yaml" --predictions "$work/labels"
kind "predictions over images" 2 images predict "$checkpoint" "$work/labels/0.png" -o "$work/images"
kind "scores into no folder" 6 nowhere eval "$checkpoint" "$work/good.yaml" --json "$work/nowhere/scores.json"
kind "scores over the checkpoint" 2 "no JSON" eval "$checkpoint" "$work/good.yaml" --json "$checkpoint"
kind "diagnosis over its input" 2 "no JSON" diagnose "$work/scores.csv" --json "$work/scores.csv"
kind "another network than the checkpoint's" 2 model.backbone eval "$checkpoint" model.backbone=resnet34
kind "ids of nothing" 2 --ids eval "$checkpoint" --ids label
kind "an empty variable" 2 variable synth ""
kind "an empty flag" 2 --json eval "$checkpoint" --json ""
kind "init of one folder for both" 3 "folders of their own" init "$work/new" --images "$work/labels" --labels "$work/labels" \
  --classes "$work/classes.yaml"
kind "resume an image" 2 "run folder" train --resume "$work/images/0.png"
kind "compare runs that are not begun" 3 folder compare "$work/folder"
kind "diagnose colours alone" 3 --classes diagnose --labels "$work/images" --predictions "$work/images"
kind "resume what is no run" 7 folder train --resume "$work/folder"
kind "resume with another setting" 2 optim.lr train --resume "$work/run" optim.lr=1
kind "predict a missing image" 3 nowhere.png predict "$checkpoint" "$work/nowhere.png" -o "$work/new"
kind "predict a truncated image" 3 cut.png predict "$checkpoint" "$work/images/cut.png" -o "$work/new"
kind "predict an empty folder" 3 folder predict "$checkpoint" "$work/folder" -o "$work/new"
kind "run folder is taken" 2 run train "$work/good.yaml" run.dir="$work/run"
kind "run folder under a file" 6 a_file train "$work/good.yaml" run.dir="$work/a_file/run"
train "training that diverges" 4 "" optim.lr=1e30 optim.steps=6

good() { kind "$1" 0 "" check "$work/good.yaml" data.labeled="$2.txt"; }
good "Windows line ends" windows
good "blank lines" blank
good "absolute and relative paths" absolute
good "palette label" palette
kind "colours of a class file" 0 "" check "$work/good.yaml" data.labeled=colour.txt data.classes="$work/colours.yaml"
kind "dry run" 0 "" train "$work/good.yaml" --dry-run run.dir="$work/new"
[[ ! -e $work/new ]] || { echo "  FAILED: the dry run left a folder"; failed=$((failed + 1)); }
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
