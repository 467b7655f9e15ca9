// How the page writes numbers, and what it says of them.
import { DASHBOARD, card, expect, open, test, tile } from "./page.js";

test("what is there is never written as none", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  const shown = await page.evaluate(async () => {
    const { bytes, count, duration, percent, rate } = await import("/page/format.js");
    return [
      rate(1 / 3600), rate(0.05 / 60), rate(0.06), rate(0.1), rate(0), rate(null),
      count(60 / 3600), count(0.05), count(0), count(null), percent(0.0004), percent(0), duration(0.0004), duration(0), bytes(0.01), bytes(0),
    ];
  });
  expect(shown).toEqual([
    "< 0.1 req/min", "0.1 req/min", "3.6 req/min", "0.1 req/s", "0 req/s", "-",
    "< 0.1", "0.1", "0", "-", "< 0.1 %", "0 %", "< 1 µs", "0 µs", "< 0.1 B", "0 B",
  ]);
});

test("a percentile says how many requests it rests on, and too few are no percentile", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  const shown = await page.evaluate(async () => {
    const { percentile } = await import("/page/strip.js");
    return [[12, 200], [12, 199], [12, 20], [12, 19], [null, 0], [null, null]].map(([ms, n]) => percentile(0.95, ms, n));
  });
  expect(shown).toEqual([
    ["12 ms", "n 200"], ["12 ms", "n 199, rests on 9", "thin"], ["12 ms", "n 20, rests on 1", "thin"], ["too few (n 19)", "", "few"], ["-", "n 0"], ["-", ""],
  ]);
  // 40 requests in a step of 10 s
  await open(page, "?deployment=cpu-only&range=15m");
  await expect(tile(page, "End-to-end p95")).toContainText("n 40, rests on 2");
});

test("what is modelled is told", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  await expect(page.locator("footer")).toContainText("Deployments of modelmeter replay are modelled: arrivals and token counts are real");
});

test("browsers without the newest of the language can show it", async ({ page }) => {
  await page.addInitScript(() => {
    delete AbortSignal.any;
    for (const name of ["toSorted", "toReversed", "toSpliced", "with"]) delete Array.prototype[name];
  });
  await open(page, "?deployment=steady&range=1h");
  await expect(card(page, "volume").locator(".readout")).toContainText("requests");
});
