"""Looks at every page of a built site in a browser, as wide as a laptop and as a phone, and says what is cut off.

    python scripts/site/browser.py site [--pictures FOLDER] [--browser chromium]

A problem is a page wider than its window, and a code block or table wider than its column that shows no sign of it: a
shadow at the edge where it goes on (docs/stylesheets/site.css). Every page is looked at with two sets of fonts, each
alone, so that the answer is the same on every machine. Takes the Chromium of `make browser`, or one on the PATH; where
there is none a line says that nobody looked, and with CI=true that is an error (unless CATREPARAM_PAGES_UNSEEN is set:
`.ci/run` found no browser to fetch).
"""

import argparse
import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (1280, 390)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 240
# Opens each page in a frame of each width; what it finds stands in the document when all is done.
DRIVER = """<meta charset="utf-8"><body><script>
const pages = PAGES, widths = WIDTHS, problems = [];
function look(page, width, view) {
  const say = text => problems.push(`${page} at ${width}: ${text}`);
  const root = view.documentElement, over = root.scrollWidth - root.clientWidth;
  if (over > 1) say(`the page is ${over} pixels too wide`);
  for (const part of view.querySelectorAll("main pre, main table, body > pre, body table")) {
    let box = part;
    const grows = one => one === part || getComputedStyle(one).overflowX === "visible";
    while (box !== view.body && grows(box)) box = box.parentElement;
    const inner = part.tagName === "PRE" ? part.querySelector("code") || part : part;
    const cut = [inner, box].find(one => one !== view.body && one.scrollWidth > one.clientWidth + 1 && one.clientWidth);
    if (!cut) continue;
    const style = getComputedStyle(cut);
    const scrolls = style.overflowX === "auto" || style.overflowX === "scroll";
    if (scrolls && style.backgroundImage.includes("gradient")) continue;
    const what = part.textContent.trim().replace(/\\s+/g, " ").slice(0, 50);
    say(`${cut.tagName.toLowerCase()} ${cut.scrollWidth - cut.clientWidth} pixels cut off without a sign: ${what}`);
  }
}
async function main() {
  for (const width of widths) for (const page of pages) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:900px;border:0`;
    frame.src = "/" + page;
    document.body.append(frame);
    await new Promise(done => frame.addEventListener("load", done));
    await new Promise(done => setTimeout(done, 20));
    look(page, width, frame.contentDocument);
    frame.remove();
  }
  await fetch("/--seen", {method: "POST", body: JSON.stringify(problems)});
}
main();
</script></body>"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Looks at every page of a built site in a browser.")
    parser.add_argument("site", type=Path, nargs="?", default=Path("site"))
    parser.add_argument(
        "--pictures", type=Path, help="also take a picture of every page at both widths; needs a browser of your own"
    )
    parser.add_argument("--browser", default=find_browser(), help="its program")
    given = parser.parse_args()
    if given.browser is None:
        print("site: NOBODY LOOKED AT THE PAGES: no browser here; `make browser` fetches one", file=sys.stderr)
        sys.exit(bool(os.environ.get("CI") and not os.environ.get("CATREPARAM_PAGES_UNSEEN")))
    if given.pictures and Path(given.browser).is_relative_to(sys.prefix):
        sys.exit("the browser of `make browser` takes no pictures; name a Chromium or Chrome of your own: --browser")
    if given.pictures:
        take_pictures(given.site, given.pictures, given.browser)
    sets = font_sets()
    with ThreadPoolExecutor() as side_by_side:
        found = side_by_side.map(functools.partial(find_problems, given.site, given.browser), sets.values())
    problems = [f"{line} [{name}]" for name, lines in zip(sets, found, strict=True) for line in lines]
    print("\n".join(problems) if problems else f"site: nothing is cut off without a sign, in {' nor in '.join(sets)}")
    sys.exit(bool(problems))


def find_browser() -> str | None:
    """What `make browser` put into this environment, or a browser on the path."""
    fetched = Path(sys.prefix) / "chromium" / "chromium"
    return str(fetched) if fetched.exists() else next(filter(None, map(shutil.which, BROWSERS)), None)


def font_sets() -> dict[str, Path]:
    """Folders of fonts by name: the one that matplotlib brings, and that of `make browser`."""
    import matplotlib

    fetched = Path(sys.prefix) / "chromium" / "fonts"
    sets = {"DejaVu": Path(matplotlib.get_data_path()) / "fonts" / "ttf", "Open Sans": fetched}
    return {name: folder for name, folder in sets.items() if folder.exists()}


def pages_of(site: Path) -> list[str]:
    """The pages that mkdocs made, as addresses; reports of runs have a style of their own."""
    made = (path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")))
    return [page for page in made if not page.endswith("report.html") and page != "404.html"]


def find_problems(site: Path, browser: str, fonts: Path) -> list[str]:
    """One line for everything that is cut off without a sign when the fonts in that folder are the only ones."""
    driver = DRIVER.replace("PAGES", json.dumps(pages_of(site))).replace("WIDTHS", json.dumps(WIDTHS))
    seen = visit(site, browser, fonts, driver)
    return [f"{browser} did not finish in {TIMEOUT} s"] if seen is None else [html.unescape(line) for line in seen]


def visit(site: Path, browser: str, fonts: Path, driver: str, fragment: str = "") -> Any:
    """What the page `driver` sends to /--seen, opened beside those of the site; None if the browser ends before."""
    seen: list[Any] = []
    done = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/--driver":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(driver.encode())

        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_port}/--driver{fragment}"
        flags = [*_flags(profile), "--window-size=1400,1000", "--remote-debugging-port=0"]
        process = subprocess.Popen([browser, *flags, address], stderr=subprocess.DEVNULL, env=_only(fonts, profile))
        deadline = time.monotonic() + TIMEOUT
        while not done.wait(0.2) and process.poll() is None and time.monotonic() < deadline:
            pass
        process.terminate()
        process.wait()
    server.shutdown()
    server.server_close()
    return seen[0] if seen else None


def take_pictures(site: Path, folder: Path, browser: str) -> None:
    """FOLDER/WIDTH/PAGE.png for every page."""
    for width in WIDTHS:
        for page in pages_of(site):
            target = folder / str(width) / f"{re.sub('[^a-z0-9]+', '-', page.removesuffix('.html'))}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
                command = [browser, *_flags(profile), f"--window-size={width},2400", f"--screenshot={target.resolve()}"]
                subprocess.run(
                    [*command, (site / page).resolve().as_uri()],
                    stderr=subprocess.DEVNULL,
                    timeout=TIMEOUT,
                    check=True,
                    env=_only(font_sets()["DejaVu"], profile),
                )


def _only(fonts: Path, profile: str) -> dict[str, str]:
    """An environment in which the browser finds the fonts of one folder and no others."""
    config = Path(profile) / "fonts.conf"
    config.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">'
        f"<fontconfig><dir>{fonts.resolve()}</dir><cachedir>{profile}</cachedir></fontconfig>"
    )
    return os.environ | {"FONTCONFIG_FILE": str(config)}


def _flags(profile: str) -> list[str]:
    return ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]


if __name__ == "__main__":
    main()
