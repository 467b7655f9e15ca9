// How the page writes numbers, and what it says of them.
import { CLICKHOUSE, DASHBOARD, card, expect, open, test, tile } from "./page.js";
import { sql } from "./parts.js";

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
    const of = (requests, ms, more = 1000) => percentile(0.95, "ms", { requests, ms }, { requests: more, ms: 10 });
    return [of(200, 12), of(200, 10.5), of(199, 12), of(20, 12), of(19, 12), of(19, 12, 19), of(0, null), of(null, null)];
  });
  expect(shown).toEqual([
    { value: "12 ms", trend: "+20 %", more: "n 200" },
    { value: "11 ms", trend: "steady", more: "n 200" },
    { value: "12 ms", trend: "too few (n 199)", more: "rests on 9", look: "thin" },
    { value: "12 ms", trend: "too few (n 20)", more: "rests on 1", look: "thin" },
    // the range's stands for it
    { value: "10 ms", trend: "too few (n 19)", more: "range: n 1,000", look: "thin" },
    { value: "too few (n 19)", more: "", look: "few" },
    { value: "-", more: "n 0" },
    { value: "-", more: "" },
  ]);
});

test("a trend is told from 10 % on, and only where there is enough", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  const shown = await page.evaluate(async () => {
    const { requestTiles, trend } = await import("/page/strip.js");
    const trends = [[118, 100], [82, 100], [109, 100], [91, 100], [110, 100], [1200, 100], [0, 0], [5, 0], [null, 3]].map(([now, before]) => trend(now, before, true, ""));
    const of = (requests, share) => ({ start: 0, stop: 300, requests, rps: requests / 300, share_5xx: share, end_to_end_p95_ms: 100, inference_p95_ms: 50, queue_p95_ms: 20 });
    const tiles = (recent, range) => requestTiles({ recent, range }).map((tile) => tile.trend);
    return { trends, much: tiles(of(1000, 0.02), of(800, 0.01)), little: tiles(of(60, 0.05), of(90, 0.01)), none: tiles(of(1000, 0), of(1000, 0)) };
  });
  expect(shown.trends).toEqual(["+18 %", "-18 %", "steady", "steady", "+10 %", "12 ×", "steady", "", ""]);
  expect(shown.much).toEqual(["+25 %", "+100 %", "steady", "steady", "steady"]);
  expect(shown.little).toEqual(["too few (n 60)", "too few (3 of 60)", "too few (n 60)", "too few (n 60)", "too few (n 60)"]);
  expect(shown.none).toEqual(["steady", "steady", "steady", "steady", "steady"]);
});

test("the strip holds the last minutes against the range", async ({ page }) => {
  await sql(CLICKHOUSE, `INSERT INTO deployments (deployment_id, deployment_name, kind, first_seen, last_seen) VALUES ('rising', 'rising', 'production', now() - 3600, now())`);
  // twice as many in the last ten minutes, and twice as slow
  await sql(CLICKHOUSE, `INSERT INTO requests_10s (ingested, deployment_id, window_start, kafka_partition, ledger, requests, status_2xx, end_to_end)
    SELECT today(), 'rising', w, 0, '', n, n, arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', arrayMap(i -> n * 1000., range(toUInt64(n))))
    FROM (SELECT toUInt32(intDiv(toUnixTimestamp(now()), 10) * 10 - 3600 + number * 10) AS w, if(number < 300, 100, 200) AS n FROM numbers(420))`);
  await open(page, "?deployment=rising&range=1h&live=0");
  await expect(tile(page, "Volume").locator(".value")).toHaveText("20 req/s");
  await expect(tile(page, "Volume").locator(".trend")).toHaveText(/^\+[67]\d %$/); // 71 %, and less as the hour moves on
  await expect(tile(page, "5xx").locator(".trend")).toHaveText("steady");
  const slow = await tile(page, "End-to-end p95").locator(".value").textContent();
  expect(Math.abs(parseFloat(slow) - 200), slow).toBeLessThanOrEqual(3);
  // more than a twentieth of the hour's requests are slow: its p95 is theirs
  await expect(tile(page, "End-to-end p95").locator(".trend")).toHaveText("steady");
  // without an inference time there is none to tell
  await expect(tile(page, "Inference p95").locator(".value")).toHaveText("-");
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
