"""Looks at every page of a built site in a browser, as wide as a laptop and as a phone, and says what is cut off.

    python scripts/site/browser.py site [--pictures FOLDER] [--browser chromium]

A problem is a page wider than its window, and a code block or table wider than its column that shows no sign of it: a
shadow at the edge where it goes on (docs/stylesheets/site.css). Needs Chromium or Chrome; `make docs` leaves it out
where there is none.
"""

import argparse
import functools
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WIDTHS = (1280, 390)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 600
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
    parser.add_argument("--pictures", type=Path, help="also take a picture of every page at both widths")
    parser.add_argument("--browser", default=find_browser(), help="its program")
    given = parser.parse_args()
    if given.browser is None:
        print("site: no browser here, so nobody looked at the pages")
        return
    if given.pictures:
        take_pictures(given.site, given.pictures, given.browser)
    problems = find_problems(given.site, given.browser)
    print("\n".join(problems) if problems else "site: in the browser nothing is cut off without a sign")
    sys.exit(bool(problems))


def find_browser() -> str | None:
    """A browser on the path."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def pages_of(site: Path) -> list[str]:
    """The pages that mkdocs made, as addresses; reports of runs have a style of their own."""
    made = (path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")))
    return [page for page in made if not page.endswith("report.html") and page != "404.html"]


def find_problems(site: Path, browser: str) -> list[str]:
    """One line for everything that is cut off without a sign."""
    driver = DRIVER.replace("PAGES", json.dumps(pages_of(site))).replace("WIDTHS", json.dumps(WIDTHS))
    seen: list[str] = []
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
            seen.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_port}/--driver"
        flags = [*_flags(profile), "--window-size=1400,1000", "--remote-debugging-port=0"]
        process = subprocess.Popen([browser, *flags, address], stderr=subprocess.DEVNULL)
        finished = done.wait(TIMEOUT)
        process.terminate()
        process.wait()
    server.shutdown()
    server.server_close()
    return [html.unescape(line) for line in seen] if finished else [f"{browser} did not finish in {TIMEOUT} s"]


def take_pictures(site: Path, folder: Path, browser: str) -> None:
    """FOLDER/WIDTH/PAGE.png for every page."""
    for width in WIDTHS:
        for page in pages_of(site):
            target = folder / str(width) / f"{re.sub('[^a-z0-9]+', '-', page.removesuffix('.html'))}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
                command = [browser, *_flags(profile), f"--window-size={width},2400", f"--screenshot={target.resolve()}"]
                subprocess.run(
                    [*command, (site / page).resolve().as_uri()], stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=True
                )


def _flags(profile: str) -> list[str]:
    return ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]


if __name__ == "__main__":
    main()
