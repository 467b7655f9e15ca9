// What the page shows is what was seeded: every number, every state, its URL, its life, and that all can use it.
import AxeBuilder from "@axe-core/playwright";
import { CHARTS, CLICKHOUSE, DASHBOARD, card, expect, open, state, test, tile, value } from "./page.js";
import { rows, sql } from "./parts.js";
import { GIB, STEADY } from "./seed.js";

const SECONDS = { "10 s": 10, "30 s": 30, "1 min": 60, "5 min": 300, "1 h": 3600 };

// A duration as the page writes it, in milliseconds.
function milliseconds(text) {
  const [, number, unit] = /^([\d.,]+) (µs|ms|s)$/.exec(text) ?? [];
  return Number(number.replaceAll(",", "")) * { µs: 1e-3, ms: 1, s: 1000 }[unit];
}

// of 10 s windows with a hundred requests it takes three for a p95 that rests on enough
for (const [range, step, latencyStep] of [["15m", "10 s", "30 s"], ["1h", "30 s", "30 s"], ["6h", "1 min", "1 min"], ["24h", "5 min", "5 min"], ["7d", "1 h", "1 h"]]) {
  test(`every number of ${range} is the truth`, async ({ page }) => {
    await open(page, `?deployment=steady&range=${range}`);
    for (const [label, truth] of Object.entries(STEADY.rps)) await expect(value(page, "volume", label)).toHaveText(`${truth} req/s`);
    for (const [name, truths] of [["end_to_end", STEADY.endToEndMs], ["inference", STEADY.inferenceMs]]) {
      for (const [label, truth] of Object.entries(truths)) {
        const shown = milliseconds(await value(page, name, label).textContent());
        // 1 % of the sketch, and half of the last digit shown
        expect(Math.abs(shown - truth), `${name} ${label}: ${shown} for ${truth}`).toBeLessThanOrEqual(truth * 0.01 + 0.5);
      }
      await expect(card(page, name).locator("h2 .per")).toHaveText(`per ${latencyStep}`);
      const requests = STEADY.requestsPerWindow * SECONDS[latencyStep] / 10;
      await expect(card(page, name).locator(".readout")).toContainText(`${requests.toLocaleString("en-US")} requests`);
    }
    await expect(value(page, "replicas", "active")).toHaveText(String(STEADY.replicas.active));
    await expect(value(page, "replicas", "starting: loading")).toHaveText(String(STEADY.replicas.loading));
    await expect(value(page, "replicas", "starting: waiting")).toHaveText("0");
    await expect(value(page, "gpu", "average")).toHaveText("73 %");
    await expect(value(page, "gpu", "highest")).toHaveText("95 %");
    await expect(value(page, "gpu", "SM activity")).toHaveText("40 %");
    for (const [name, label, bytes] of [
      ["gpu_memory", "average", STEADY.gpuMemory.average], ["gpu_memory", "highest", STEADY.gpuMemory.highest], ["gpu_memory", "total", STEADY.gpuMemory.limit],
      ["memory", "average", STEADY.memory.average], ["memory", "highest", STEADY.memory.highest], ["memory", "limit", STEADY.memory.limit],
    ]) await expect(value(page, name, label)).toHaveText(`${bytes / GIB} GiB`);
    for (const label of ["average", "highest", "limit"]) await expect(value(page, "cpu", label)).toHaveText(`${STEADY.cores[label]} cores`);
    const seconds = SECONDS[step];
    const requests = STEADY.requestsPerWindow * seconds / 10;
    await expect(card(page, "volume").locator(".readout")).toContainText(`${requests.toLocaleString("en-US")} requests`);
    await expect(value(page, "volume", "client gone (499)")).toHaveText(`${STEADY.clientGone} req/s`);
    // the last five minutes of complete steps, or one step
    const recent = STEADY.requestsPerWindow * Math.max(30, seconds / 10);
    await expect(tile(page, "Volume")).toHaveText(`Volume10 req/ssteadyn ${recent.toLocaleString("en-US")} in ${step === "1 h" ? "1 h" : "5 min"}`);
    await expect(tile(page, "5xx")).toHaveText(`5xx4.0 %steadyn ${recent.toLocaleString("en-US")}`);
    const queue = /^Queue p95([\d.]+ ms)steadyn ([\d,]+)$/.exec(await tile(page, "Queue p95").textContent());
    expect(Math.abs(milliseconds(queue?.[1] ?? "") - STEADY.queueP95Ms), "queue p95").toBeLessThanOrEqual(STEADY.queueP95Ms * 0.01 + 0.5);
    expect(queue[2]).toBe(recent.toLocaleString("en-US"));
    await expect(page.locator(".strip dt")).toHaveText(["Volume", "5xx", "End-to-end p95", "Inference p95", "Queue p95", "Replicas active", "GPU", "GPU memory"]);
    await expect(tile(page, "Replicas active")).toContainText("21 starting");
    await expect(tile(page, "GPU")).toContainText("73 %3 GPUs");
    await expect(tile(page, "GPU memory")).toContainText("12.5 GiBof 24 GiB");
    await expect(card(page, "cpu").locator(".readout")).toContainText("38 % · 3 replicas");
    for (const name of ["gpu", "gpu_memory", "cpu", "memory"]) {
      await expect(card(page, name).locator(".definition")).toContainText(`Average of replicas over ${step}; short spikes do not show.`);
    }
  });
}

test("the table is what the view says, to the last digit", async ({ page }) => {
  await open(page, "?deployment=overloaded&range=1h");
  await card(page, "inference").getByRole("button", { name: "Table of Inference time" }).click();
  // a step that is over for long: it changes no more
  const row = card(page, "inference").locator("tbody tr").nth(60);
  const [t, coverage, ...shown] = (await row.locator("th, td").allTextContents());
  const at = Date.parse(t) / 1000;
  const [truth] = await rows(CLICKHOUSE, `SELECT * FROM response_time(deployment = 'overloaded', start = ${at}, stop = ${at + 30}, step = 30)`);
  expect(coverage).toBe("d");
  const names = await card(page, "inference").locator("thead th").allTextContents();
  expect(names.slice(2)).toHaveLength(5);
  for (const [at, name] of names.slice(2).entries()) expect(Number(shown[at]), name).toBe(truth[name]);
});

test("the numbers under the cursor are those of its step", async ({ page }) => {
  await open(page, "?deployment=overloaded&range=1h");
  const plot = card(page, "volume").locator(".plot");
  await plot.focus();
  await page.keyboard.press("Home");
  for (let n = 0; n < 10; n += 1) await page.keyboard.press("ArrowRight");
  await card(page, "volume").getByRole("button", { name: "Table of Inference volume" }).click();
  const cells = await card(page, "volume").locator("tbody tr").nth(-11).locator("td").allTextContents();
  const names = (await card(page, "volume").locator("thead th").allTextContents()).slice(1);
  const requests = Number(cells[names.indexOf("requests")]).toLocaleString("en-US");
  for (const name of ["volume", "end_to_end", "inference"]) {
    await expect(card(page, name).locator(".readout")).toContainText(`${requests} requests`);
  }
  await plot.focus();
  await page.keyboard.press("Escape");
  await expect(card(page, "volume").locator(".readout")).not.toContainText(` ${requests} requests`);
});

test("the last complete step has ended for as long as reading it takes, however long it is", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  const found = await page.evaluate(async () => {
    const { lastComplete } = await import("/page/card.js");
    const answer = { t: [400, 700, 1000], step: 300, coverage: ["d", "d", "d"] };
    return [1299, 1300, 1309, 1310].map((now) => lastComplete(answer, { now }));
  });
  expect(found).toEqual([1, 1, 1, 2]);
  // in the first half of its hour the middle of the open step lies beyond the axis
  for (const [minute, second] of [[0, 40], [20, 0], [59, 0]]) {
    await page.route("**/api/v1/panel?*", async (route) => {
      const response = await route.fetch();
      const panel = await response.json();
      // the clock's place in the hour, whatever it is now: the same steps, told as of another second of the last one
      panel.now = panel.charts.volume.t.at(-1) + minute * 60 + second;
      await route.fulfill({ response, json: panel });
    });
    await open(page, "?deployment=steady&range=7d");
    await card(page, "volume").locator(".plot").focus();
    await page.keyboard.press("End");
    await expect(card(page, "volume").locator(".readout")).toContainText("still being read");
    await page.unroute("**/api/v1/panel?*");
  }
});

test("a step that is still being read is told so, and not drawn", async ({ page }) => {
  await open(page, "?deployment=steady&range=15m");
  await expect(async () => {
    await card(page, "replicas").locator(".plot").focus();
    await page.keyboard.press("End");
    for (const name of ["replicas", "volume"]) {
      await expect(card(page, name).locator(".readout")).toContainText("still being read", { timeout: 500 });
    }
  }).toPass();
  const settled = await page.evaluate(async () => {
    const { isSettled } = await import("/page/words.js");
    const now = 1000;
    return [[980, 10], [990, 10], [970, 10], [900, 300], [901, 300]].map(([t, step]) => isSettled(t, step, now));
  });
  expect(settled).toEqual([true, false, true, true, false]);
});

test("zero: replicas that were not asked", async ({ page }) => {
  await open(page, "?deployment=idle&range=1h");
  await expect(state(page, "volume")).toHaveText("Zero requests. 2 replicas reported; none was asked.");
  await expect(value(page, "volume", "2xx")).toHaveText("0 req/s");
  await expect(value(page, "end_to_end", "p95")).toHaveText("-");
  await expect(value(page, "replicas", "active")).toHaveText("2");
  await expect(state(page, "cpu")).toHaveCount(0);
});

test("zero: a deployment that was scaled to zero", async ({ page }) => {
  for (const range of ["1h", "6h"]) {
    await open(page, `?deployment=asleep&range=${range}`);
    for (const name of CHARTS) await expect(state(page, name)).toHaveText(/^No replica since [\d:]+: scaled to zero\.$/);
    await expect(value(page, "replicas", "active")).toHaveText("0");
    await expect(page.locator("#badge")).toContainText("Complete, no replica since");
  }
});

test("no data: a gap that says so, and stale with it", async ({ page }) => {
  await open(page, "?deployment=silent&range=1h");
  for (const name of CHARTS) await expect(state(page, name)).toHaveText(/^Stale since [\d:]+: producers silent or the pipeline behind\.$/);
  await expect(page.locator("#badge")).toHaveText(/^Stale since [\d:]+: producers silent or the pipeline behind$/);
  await expect(value(page, "volume", "2xx")).toHaveText("-");
  await open(page, "?deployment=silent&range=15m");
  await expect(state(page, "volume")).toHaveText(/^No data from [\d:]+ to [\d:]+: no replica reported, or the pipeline is behind\. Are agent and processor running\?$/);
});

test("no data: before it was first seen", async ({ page }) => {
  await open(page, "?deployment=young&range=1h");
  await expect(state(page, "volume")).toHaveText(/^First seen [\d:]+\.$/);
});

test("null: a GPU that cannot be read, no limit, no status, no GPU", async ({ page }) => {
  await open(page, "?deployment=mig&range=1h");
  await expect(state(page, "gpu")).toHaveText("GPU cannot be read (1 reported; MIG or no driver). This is not 0 %.");
  await expect(value(page, "gpu", "average")).toHaveText("-");
  await expect(state(page, "cpu")).toHaveText("No limit set, so no percentage.");
  await expect(state(page, "volume")).toHaveText(/^Unclassified: 14,\d{3} requests from producers that send no status\. Upgrade them\.$/);
  await expect(value(page, "volume", "unclassified")).toHaveText("4 req/s");
  await expect(card(page, "replicas").locator(".definition")).toContainText("Active also while loading.");
  await open(page, "?deployment=cpu-only&range=1h");
  for (const name of ["gpu", "gpu_memory"]) await expect(state(page, name)).toHaveText("No GPU reported.");
  await expect(tile(page, "CPU")).toContainText("1.5 coresof 4 cores");
});

test.describe("error", () => {
  test.use({ expected: ["503 (Service Unavailable)", "ERR_CONNECTION_REFUSED", "404 (Not Found)"] });

  test("one chart cannot be read, the others can", async ({ page, dashboards }) => {
    await sql(CLICKHOUSE, "ALTER TABLE broken.requests_10s DROP COLUMN IF EXISTS inference");
    await sql(CLICKHOUSE, "INSERT INTO broken.deployments SELECT * FROM default.deployments");
    await sql(CLICKHOUSE, "INSERT INTO broken.replicas_10s SELECT * FROM default.replicas_10s WHERE deployment_id = 'steady'");
    const dashboard = await dashboards.on(CLICKHOUSE, "broken");
    await page.goto(`${dashboard.url}/?deployment=steady&range=15m`);
    for (const name of ["end_to_end", "inference"]) {
      await expect(state(page, name)).toContainText("Could not be read: ClickHouse refused the query");
      await expect(state(page, name)).toContainText("The others are not affected.");
    }
    await expect(state(page, "volume")).toHaveText("Zero requests. 3 replicas reported; none was asked.");
    await expect(value(page, "replicas", "active")).toHaveText(String(STEADY.replicas.active));
    await expect(value(page, "gpu", "average")).toHaveText("73 %");
  });

  test("ClickHouse is not there", async ({ page, dashboards }) => {
    const dashboard = await dashboards.on("http://127.0.0.1:9");
    await page.goto(dashboard.url);
    await expect(page.locator("#notice")).toHaveText(/^ClickHouse cannot be reached since [\d:]+\.$/);
    await expect(page.locator("#countdown")).toContainText("Trying again in");
  });

  test("the connection is lost: the old numbers stay, and are told to be old", async ({ page, dashboards }) => {
    const dashboard = await dashboards.on(CLICKHOUSE);
    await open(page, "?deployment=steady&range=15m", dashboard.url);
    await dashboard.stop();
    await expect(page.locator("#badge")).toHaveText(/^Stale since [\d:]+: connection lost$/);
    await expect(page.locator("#notice")).toContainText("Connection lost at");
    await expect(value(page, "volume", "2xx")).toHaveText("8.9 req/s");
  });

  test("an unknown deployment", async ({ page }) => {
    await page.goto(`${DASHBOARD}/?deployment=nobody`);
    await expect(page.locator("#notice")).toHaveText("No such deployment: nobody.");
    await expect(page.locator("#charts")).toBeHidden();
  });
});

test("nothing has reported yet", async ({ page, dashboards }) => {
  const dashboard = await dashboards.on(CLICKHOUSE, "empty");
  await page.goto(dashboard.url);
  await expect(page.locator("#notice")).toContainText("No deployment has reported yet.");
});

test("the URL says what is shown, there and back", async ({ page }) => {
  await open(page, "?deployment=steady");
  await expect(page.getByLabel("Range")).toHaveValue("6h");
  await page.getByLabel("Range").selectOption("1h");
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=steady&range=1h`);
  await page.getByLabel("Deployment").selectOption("idle");
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=idle&range=1h`);
  await expect(state(page, "volume")).toContainText("Zero requests.");
  await card(page, "end_to_end").getByRole("button", { name: /^p99/ }).click();
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=idle&range=1h&hide=end_to_end.p99`);
  await page.reload();
  await expect(page.getByLabel("Deployment")).toHaveValue("idle");
  await expect(card(page, "end_to_end").getByRole("button", { name: /^p99/ })).toHaveAttribute("aria-pressed", "false");
  await page.goBack();
  await expect(page.getByLabel("Deployment")).toHaveValue("steady");
  await page.goBack();
  await expect(page.getByLabel("Range")).toHaveValue("6h");
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=steady`);
});

test("Back leads to the deployment that the bare address showed", async ({ page }) => {
  await open(page, "");
  const first = await page.getByLabel("Deployment").inputValue();
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=${first}`);
  const other = first === "idle" ? "steady" : "idle";
  await page.getByLabel("Deployment").selectOption(other);
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=${other}`);
  await page.goBack();
  await expect(page).toHaveURL(`${DASHBOARD}/?deployment=${first}`);
  await expect(page.getByLabel("Deployment")).toHaveValue(first);
});

test("a range of one's own, and what is ignored", async ({ page }) => {
  const stop = Math.floor(Date.now() / 60_000) * 60 - 3600;
  const [from, to] = [stop - 600, stop].map((at) => new Date(at * 1000).toISOString().replace(".000Z", "Z"));
  await open(page, `?deployment=steady&from=${from}&to=${to}&colour=red`);
  await expect(page.locator("#notice")).toHaveText("Ignored colour: it is no parameter of this page.");
  await expect(page.locator("#countdown")).toHaveText("Not live");
  await card(page, "volume").getByRole("button", { name: "Table of Inference volume" }).click();
  await expect(card(page, "volume").locator("tbody tr")).toHaveCount(60);
  await expect(card(page, "volume").locator("tbody th").first()).toHaveText(new Date((stop - 10) * 1000).toISOString().replace(".000Z", "Z"));
});

test("live: new rows are shown without a reload, and not when it is off", async ({ page }) => {
  // the test moves the page's clock, so that an hour passes at once
  await page.clock.install();
  await sql(CLICKHOUSE, `INSERT INTO deployments (deployment_id, deployment_name, kind, first_seen, last_seen) VALUES ('alive', 'alive', 'production', now() - 600, now())`);
  const add = (per) => sql(CLICKHOUSE, `INSERT INTO requests_10s (ingested, deployment_id, window_start, kafka_partition, ledger, requests, status_2xx)
    SELECT today(), 'alive', toUInt32(intDiv(toUnixTimestamp(now()), 10) * 10 - 600 + number * 10), 0, '', ${per}, ${per} FROM numbers(120)`);
  await add(100);
  await open(page, "?deployment=alive&range=15m");
  await expect(value(page, "volume", "2xx")).toHaveText("10 req/s");
  await add(50);
  await page.clock.fastForward("00:10");
  await expect(value(page, "volume", "2xx")).toHaveText("15 req/s");
  await page.getByRole("button", { name: "Live" }).click();
  await expect(page).toHaveURL(/live=0/);
  await expect(page.locator("#countdown")).toHaveText("Not live");
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await add(30);
  await page.clock.fastForward("01:00:00");
  // questions are seen in their order: behind this one, none of that hour is under way unseen
  await page.evaluate(() => fetch("/livez"));
  await expect.poll(() => asked).toContain("/livez");
  expect(asked).toEqual(["/livez"]);
  await expect(value(page, "volume", "2xx")).toHaveText("15 req/s");
  await page.getByRole("button", { name: "Live" }).click();
  await expect(value(page, "volume", "2xx")).toHaveText("18 req/s");
  await page.clock.fastForward("01:00:00");
  await expect.poll(() => asked.filter((path) => path === "/api/v1/panel").length).toBeGreaterThanOrEqual(2);
});

test("what is drawn differs: data, zero, none", async ({ page }) => {
  const pixels = async (deployment) => {
    await open(page, `?deployment=${deployment}&range=15m&live=0`);
    return card(page, "volume").locator("canvas").evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const at = (x, y) => [...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3)].join();
      const [x, base] = [Math.round(canvas.width / 2), canvas.height - 26];
      const column = new Set(Array.from({ length: 60 }, (_, n) => at(x, base - 80 + n)));
      return { column: column.size, axis: at(x, base) };
    });
  };
  const [data, zero, none] = [await pixels("steady"), await pixels("idle"), await pixels("silent")];
  expect(zero.axis).not.toBe(none.axis);
  expect(data.axis).not.toBe(zero.axis);
  expect(none.column, "a hatch has several colours").toBeGreaterThan(1);
});

for (const scheme of ["light", "dark"]) {
  test.describe(scheme, () => {
    test.use({ colorScheme: scheme });
    for (const deployment of ["steady", "asleep", "silent", "mig", "cpu-only"]) {
      test(`axe finds nothing in ${deployment}`, async ({ page }) => {
        await open(page, `?deployment=${deployment}&range=1h`);
        await card(page, "cpu").getByRole("button", { name: "Table of CPU usage" }).click();
        await card(page, "memory").getByRole("button", { name: /^average/ }).click();
        const { violations } = await new AxeBuilder({ page }).analyze();
        expect(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])).toEqual([]);
      });
    }
  });
}

test("all of it by keyboard, and in words for those who hear it", async ({ page }) => {
  await open(page, "?deployment=steady&range=1h");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to the charts" })).toBeFocused();
  await page.keyboard.press("/");
  await expect(page.getByLabel("Deployment")).toBeFocused();
  const plot = card(page, "end_to_end").locator(".plot");
  await expect(plot).toHaveAttribute("aria-label", /^End-to-end time, [\d:]+ to [\d:]+\. p95 now 9\d\d ms, highest 9\d\d ms at [\d:]+\. 0 gaps\. V for the table\.$/);
  await plot.focus();
  await page.keyboard.press("v");
  await expect(card(page, "end_to_end").locator("table")).toBeVisible();
  await page.keyboard.press("v");
  await expect(card(page, "end_to_end").locator("table")).toBeHidden();
});

test("it loads from itself only", async ({ page }) => {
  const origins = new Set();
  page.on("request", (request) => origins.add(new URL(request.url()).origin));
  const response = await page.goto(`${DASHBOARD}/`);
  await expect(page.locator("#volume .plot canvas")).toBeVisible();
  expect([...origins]).toEqual([DASHBOARD]);
  expect(response.headers()["content-security-policy"]).toContain("default-src 'none'");
});
