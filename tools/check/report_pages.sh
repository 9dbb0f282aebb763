#!/usr/bin/env bash
# Opens HTML pages of semiseg in headless Chromium: nothing may be said on the console (a request to the network would be: the
# page forbids itself any), no section may be missing or say "undefined", and on a phone, 360 pixels wide, nothing may stick out.
#   bash tools/check/report_pages.sh [--pictures DIR] [PAGE.html ...]
# Without pages it trains two tiny runs and takes their report and comparison. --pictures keeps a picture of each page on a desktop,
# in the dark and on a phone, and a print. Skipped where there is no Chromium.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

pictures=
if [[ ${1:-} == --pictures ]]; then
  mkdir -p "$2"
  pictures=$(cd "$2" && pwd)
  shift 2
fi
for name in chromium chromium-browser google-chrome; do browser=$(command -v $name) && break; done || {
  echo "report_pages: skipped, there is no Chromium (Debian: apt-get install chromium)"
  exit 0
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pages=()
for page in "$@"; do pages+=("$(realpath "$page")"); done
if ((${#pages[@]} == 0)); then
  cd "$work"
  for seed in 1 2; do
    "$repository/build/semiseg" train "$repository/configs/synthetic/demo.yaml" run.name=seed$seed seed=$seed optim.epochs=3 \
      data.counts='[6, 6, 4]' data.size='[32, 64]' data.crop=32 optim.batch_labeled=2 optim.batch_unlabeled=2 > train.out 2>&1 ||
      { tail -3 train.out; exit 1; }
  done
  "$repository/build/semiseg" compare runs/seed1 runs/seed2 > /dev/null
  pages=("$work/runs/seed1/report.html" "$work/compare.html")
fi

# chromium FLAG... URL, with a profile of its own; stdout is the page's markup where --dump-dom asks for it.
run_browser() {
  timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
    --disable-background-networking --disable-component-update --no-first-run --user-data-dir="$work/profile" \
    --virtual-time-budget=4000 --enable-logging=stderr "$@" 2> "$work/log"
}

# A page that holds `page` in a frame of a phone's width, and says in its own body how wide that page's content is.
phone_of() {
  cat > "$work/phone.html" <<HTML
<!doctype html><style>body { margin: 0 } iframe { width: 360px; height: ${2}px; border: 0 }</style>
<iframe src="file://$1"></iframe><p id="said"></p>
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument;
  const wide = [...page.querySelectorAll("main *")].filter((part) =>
    part.getBoundingClientRect().right > 361 && !part.closest(".scroll, nav"));
  document.getElementById("said").textContent =
    page.documentElement.scrollWidth + " " + page.querySelectorAll("section").length + " " +
    page.documentElement.scrollHeight + " " + (wide[0] ? wide[0].outerHTML.slice(0, 100) : "");
}, 1500));
</script>
HTML
  echo "file://$work/phone.html"
}

failed=0
complain() {
  echo "report_pages: $1" >&2
  failed=1
}
for page in "${pages[@]}"; do
  name=$(basename "$(dirname "$page")")-$(basename "$page" .html)
  run_browser --window-size=1280,1000 --dump-dom "file://$page" > "$work/dom.html" || complain "$page: the browser failed"
  grep "CONSOLE" "$work/log" > "$work/said" && complain "$page: on the console: $(head -1 "$work/said")"
  # Without the data, the pictures and the scripts, which may hold any word.
  sed -e 's/<script.*<\/script>//' -e 's/data:image[^"]*//g' "$work/dom.html" | awk '/<script/ { skip = 1 } !skip { print } /<\/script>/ { skip = 0 }' > "$work/body.html"
  grep -qE 'undefined|NaN|\[object' "$work/body.html" && complain "$page: shows undefined, NaN or an object"

  run_browser --window-size=500,1000 --dump-dom "$(phone_of "$page" 1000)" > "$work/phone.dom" || complain "$page: the browser failed"
  read -r width sections height wide < <(grep -oP '(?<=<p id="said">).*(?=</p>)' "$work/phone.dom") || true
  ((${width:-0} > 0 && width <= 360)) || complain "$page: ${width:-?} pixels wide on a phone of 360: ${wide:-}"
  ((${sections:-0} >= 3)) || complain "$page: ${sections:-no} sections"
  echo "$page: ${sections:-0} sections, ${width:-?} pixels wide on a phone, $(($(stat -c %s "$page") / 1024)) kB"

  if [[ $pictures ]]; then
    run_browser --window-size=1280,$((height / 2)) --screenshot="$pictures/$name-desktop.png" "file://$page" || true
    run_browser --window-size=1280,$((height / 2)) --blink-settings=preferredColorScheme=0 \
      --screenshot="$pictures/$name-dark.png" "file://$page" || true
    run_browser --window-size=500,$height --screenshot="$pictures/$name-phone.png" "$(phone_of "$page" "$height")" || true
    run_browser --no-pdf-header-footer --print-to-pdf="$pictures/$name.pdf" "file://$page" || true
  fi
done
exit $failed
