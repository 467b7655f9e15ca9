// What goes wrong between page and API: no number under another name, and no cause that is not known.
import { DASHBOARD, card, expect, open, state, test, value } from "./page.js";

const PANEL = "**/api/v1/panel?*";
const isOf = (route, deployment) => new URL(route.request().url()).searchParams.get("deployment") === deployment;
const answer = (status, code, message) => ({ status, contentType: "application/json", body: JSON.stringify({ error: { code, message } }) });

test.use({ expected: ["502 (Bad Gateway)", "503 (Service Unavailable)", "504 (Gateway Timeout)"] });

// Nothing of what another deployment or range had is to be seen.
async function expectNothing(page) {
  await expect(page.locator("#strip > div")).toHaveCount(0);
  await expect(page.locator("#charts")).toBeHidden();
}

test("no number of one deployment stands under the name of another that cannot be read", async ({ page }) => {
  await open(page, "?deployment=steady&range=1h");
  await page.route(PANEL, (route) => (isOf(route, "idle") ? route.fulfill(answer(503, "clickhouse_slow", "ClickHouse did not answer within 10 s")) : route.fallback()));
  await page.getByLabel("Deployment").selectOption("idle");
  await expect(page.locator("#notice")).toContainText("ClickHouse did not answer within 10 s (clickhouse_slow");
  await expect(page.locator("#facts")).toContainText("idle");
  await expectNothing(page);
  // back at the first one, it is all there again
  await page.goBack();
  await expect(value(page, "volume", "2xx")).toHaveText("8.9 req/s");
});

test("nor while the other is being read, whatever is switched meanwhile", async ({ page }) => {
  await open(page, "?deployment=steady&range=1h");
  let answered;
  const held = new Promise((done) => (answered = done));
  await page.route(PANEL, async (route) => {
    if (isOf(route, "idle")) await held;
    await route.fallback();
  });
  await page.getByLabel("Deployment").selectOption("idle");
  await expectNothing(page);
  await card(page, "end_to_end").locator(".legend button").last().dispatchEvent("click");
  await expect(page).toHaveURL(/hide=end_to_end\.p99/);
  await expectNothing(page);
  answered();
  await expect(value(page, "volume", "2xx")).toHaveText("0 req/s");
  await expect(state(page, "volume")).toContainText("Zero requests.");
});

test("a range that cannot be read does not keep the numbers of the one before", async ({ page }) => {
  await open(page, "?deployment=steady&range=1h");
  await page.route(PANEL, (route) => (route.request().url().includes("range=24h") ? route.fulfill(answer(503, "busy", "more than 4 panels are being read; try again")) : route.fallback()));
  await page.getByLabel("Range").selectOption("24h");
  await expect(page.locator("#notice")).toContainText("More than 4 panels are being read; try again (busy");
  await expectNothing(page);
});

test("a chart whose own view fails after a switch keeps nothing", async ({ page }) => {
  await open(page, "?deployment=steady&range=1h");
  await card(page, "cpu").getByRole("button", { name: "Table of CPU usage" }).click();
  await expect(value(page, "cpu", "average")).toHaveText("1.5 cores");
  await page.route(PANEL, async (route) => {
    const response = await route.fetch();
    const panel = await response.json();
    panel.charts.cpu = { error: { code: "clickhouse_refused", message: "ClickHouse refused the query" } };
    await route.fulfill({ response, json: panel });
  });
  // the same view that fails later keeps its numbers, and says that they are old
  await page.getByRole("button", { name: "Live" }).click();
  await expect(state(page, "cpu")).toContainText("Could not be read");
  await expect(value(page, "cpu", "average")).toHaveText("1.5 cores");
  await page.getByLabel("Deployment").selectOption("idle");
  await expect(state(page, "volume")).toContainText("Zero requests.");
  await expect(state(page, "cpu")).toContainText("Could not be read");
  await expect(value(page, "cpu", "average")).toHaveText("-");
  await expect(card(page, "cpu").locator("canvas")).toHaveCount(0);
  await expect(card(page, "cpu").locator("tbody tr")).toHaveCount(0);
  await expect(card(page, "cpu").locator(".readout")).toHaveText("");
});

for (const [what, reply, notice, badge] of [
  ["the API's reason", answer(503, "clickhouse_slow", "ClickHouse did not answer within 10 s"), /^ClickHouse did not answer within 10 s \(clickhouse_slow, since [\d:]+\)\.$/, "ClickHouse is slow"],
  ["only this code is an unreachable ClickHouse", answer(503, "clickhouse_unreachable", "ClickHouse cannot be reached"), /^ClickHouse cannot be reached since [\d:]+\.$/, "ClickHouse cannot be reached"],
  ["a proxy's answer", { status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>" }, /^The page's server answered 502, since [\d:]+\.$/, "the page's server answered 502"],
  ["a proxy's answer in JSON", { status: 504, contentType: "application/json", body: "{\"error\": \"timeout\"}" }, /^The page's server answered 504, since [\d:]+\.$/, "the page's server answered 504"],
]) {
  test(`what went wrong is told as far as it is known: ${what}`, async ({ page }) => {
    await open(page, "?deployment=steady&range=15m");
    await page.route(PANEL, (route) => route.fulfill(reply));
    await expect(page.locator("#notice")).toHaveText(notice);
    await expect(page.locator("#badge")).toHaveText(new RegExp(`^Stale since [\\d:]+: ${badge}$`));
    // the same view's numbers stay
    await expect(value(page, "volume", "2xx")).toHaveText("8.9 req/s");
    await page.unroute(PANEL);
    await expect(page.locator("#notice")).toBeHidden();
    await expect(page.locator("#badge")).toHaveText(/^Data until/);
  });
}
