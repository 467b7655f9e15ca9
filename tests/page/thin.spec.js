// What rests on few requests is drawn as such, and told: thin lines, hollow dots, and no line to a step without a percentile.
import { DASHBOARD, card, expect, open, test, value } from "./page.js";

test("ten requests beyond a percentile are enough, fewer are thin, and under one there is none", async ({ page }) => {
  await page.goto(`${DASHBOARD}/`);
  const told = await page.evaluate(async () => {
    const { grade, gradeBetween, restsOnWords } = await import("/page/thin.js");
    const at = [[0.5, 20], [0.5, 19], [0.5, 1], [0.95, 200], [0.95, 199], [0.95, 20], [0.95, 19], [0.99, 1000], [0.99, 999], [0.99, 99]];
    const between = [["enough", "enough"], ["enough", "thin"], ["thin", "thin"], ["few", "enough"], ["thin", "few"], ["enough", null]];
    const series = [["p50", 0.5], ["p90", 0.9], ["p95", 0.95], ["p99", 0.99]].map(([label, q]) => ({ label, q }));
    return { grades: at.map((of) => grade(...of)), lines: between.map((of) => gradeBetween(...of)), words: [2000, 312, 40, 15, 1].map((n) => restsOnWords(series, n)) };
  });
  expect(told.grades).toEqual(["enough", "thin", "few", "enough", "thin", "thin", "few", "enough", "thin", "few"]);
  expect(told.lines).toEqual(["enough", "thin", "thin", null, null, null]);
  expect(told.words).toEqual([
    ["p95 rests on the slowest 100"], ["p95 rests on the slowest 15"], ["p95 rests on the slowest 2", "p99: slowest of 40"],
    ["p95, p99: slowest of 15"], ["p50, p90, p95, p99: slowest of 1"],
  ]);
});

test("under the cursor it is told on how many a percentile rests", async ({ page }) => {
  await open(page, "?deployment=steady&range=24h");
  await expect(card(page, "end_to_end").locator(".readout")).toContainText("3,000 requests · p95 rests on the slowest 150");
  // ten a second: the open step is thin itself until it has a thousand
  if ((Date.now() / 1000) % 300 > 130) await expect(card(page, "end_to_end").locator(".thin-note")).toBeHidden();
  await open(page, "?deployment=quiet&range=15m");
  await expect(card(page, "inference").locator(".readout")).toContainText("9 requests · p90, p95, p99: slowest of 9");
  await expect(card(page, "inference").locator(".thin-note")).toBeVisible();
  await expect(card(page, "volume").locator(".readout")).not.toContainText("slowest");
});

test("the time charts' steps are as long as enough requests take, and every cursor stands at the same moment", async ({ page }) => {
  await open(page, "?deployment=quiet&range=6h&live=0");
  // 18 requests a minute: 270 in a quarter of an hour
  await expect(card(page, "volume").locator(".readout")).toContainText("18 requests");
  await expect(card(page, "volume").locator("h2")).toHaveText("Inference volume");
  for (const [name, title, p95] of [["end_to_end", "End-to-end time", 950], ["inference", "Inference time", 95]]) {
    await expect(card(page, name).locator("h2")).toHaveText(`${title} per 15 min`);
    await expect(card(page, name).locator(".readout")).toContainText("270 requests · p95 rests on the slowest 13");
    const shown = Number.parseFloat(await value(page, name, "p95").textContent());
    expect(Math.abs(shown - p95)).toBeLessThanOrEqual(p95 * 0.01 + 0.5);
  }
  // minutes of the day at which a chart's step begins and ends
  const stepOf = async (name) => {
    const told = await card(page, name).locator(".readout").textContent();
    return [...told.matchAll(/(\d\d):(\d\d)/g)].slice(0, 2).map(([, hours, minutes]) => Number(hours) * 60 + Number(minutes));
  };
  for (const [keyed, keys] of [["inference", ["Home", "ArrowRight", "ArrowRight"]], ["replicas", ["ArrowLeft"]], ["end_to_end", ["ArrowRight"]]]) {
    const before = await stepOf(keyed);
    await card(page, keyed).locator(".plot").focus();
    for (const key of keys) await page.keyboard.press(key);
    const [[short, shortEnd], [long, longEnd]] = [await stepOf("volume"), await stepOf("inference")];
    expect([(shortEnd - short + 1440) % 1440, (longEnd - long + 1440) % 1440]).toEqual([1, 15]);
    expect((short - long + 1440) % 1440, `${keyed}: ${short} lies in the quarter from ${long}`).toBeLessThan(15);
    expect(await stepOf(keyed), "it moved").not.toEqual(before);
    expect(await stepOf("end_to_end")).toEqual([long, longEnd]);
    expect(await stepOf("replicas")).toEqual([short, shortEnd]);
  }
});

// How many of a column of pixels through the plot are of this series, and how strongly: what is drawn, not what was asked.
const drawn = (page, name, hidden) => async (deployment, range) => {
  await open(page, `?deployment=${deployment}&range=${range}&live=0&hide=${hidden.map((of) => `${name}.${of}`).join(",")}`);
  return card(page, name).locator("canvas").evaluate((canvas) => {
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const [left, right] = [Math.round(width * 0.4), Math.round(width * 0.6)];
    // what is green-blue, and how opaque: the canvas lies on the card
    const ink = (x) => {
      let most = 0;
      for (let y = 0; y < height - 30; y += 1) {
        const at = 4 * (y * width + x);
        if (data[at] < data[at + 2] - 40) most = Math.max(most, data[at + 3]);
      }
      return most;
    };
    const columns = Array.from({ length: right - left }, (_, i) => ink(left + i));
    const inOrder = [...columns].sort((a, b) => a - b);
    // where a dot and a line meet it is darker than either
    return { inked: columns.filter((of) => of > 40).length / columns.length, typical: inOrder[Math.floor(inOrder.length / 2)] };
  });
};

test("what rests on few is drawn pale, and what rests on too few is joined by no line", async ({ page }) => {
  const of = drawn(page, "end_to_end", ["p90", "p95", "p99"]);
  const [enough, thin] = [await of("steady", "15m"), await of("quiet", "15m")];
  expect(enough.inked, "a line goes through every column").toBeGreaterThan(0.95);
  expect(thin.inked, "a thin line goes through every column").toBeGreaterThan(0.9);
  expect(thin.typical, "at half opacity").toBeLessThan(enough.typical * 0.75);
  const few = await drawn(page, "end_to_end", ["p50", "p95", "p99"])("quiet", "15m");
  expect(few.inked, "dots").toBeGreaterThan(0.1);
  expect(few.inked, "and nothing between them").toBeLessThan(0.95);
});

test("those who left are a line of their own over the stack, and can be switched off", async ({ page }) => {
  await open(page, "?deployment=steady&range=15m&live=0");
  await expect(value(page, "volume", "client gone (499)")).toHaveText("0.2 req/s");
  const stack = () => card(page, "volume").locator("canvas").evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(Math.round(canvas.width / 2), 0, 1, canvas.height);
    return Array.from({ length: canvas.height }, (_, y) => [...data.slice(4 * y, 4 * y + 3)].join());
  });
  const gone = "20,24,31";
  expect((await stack()).filter((of) => of === gone).length, "a line").toBeGreaterThan(0);
  await card(page, "volume").getByRole("button", { name: /^client gone/ }).click();
  await expect(page).toHaveURL(/hide=volume\.client_gone/);
  expect((await stack()).filter((of) => of === gone), "none").toEqual([]);
  // nobody left, so nothing is offered
  await open(page, "?deployment=quiet&range=15m");
  await expect(card(page, "volume").getByRole("button", { name: /^client gone/ })).toBeHidden();
});
