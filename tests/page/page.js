// The page as the tests see it: its fixtures, and where its parts are.
import { expect, test as base } from "@playwright/test";
import { startDashboard } from "./parts.js";

export { expect };
export const { CLICKHOUSE, DASHBOARD } = process.env;
export const CHARTS = ["volume", "end_to_end", "replicas", "inference", "gpu", "gpu_memory", "cpu", "memory"];

// Fails a test whose page logged an error, unless it expects one.
export const test = base.extend({
  expected: [[], { option: true }],
  quiet: [async ({ page, expected }, use) => {
    const errors = [];
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    await use();
    expect(errors.filter((text) => !expected.some((known) => text.includes(known)))).toEqual([]);
  }, { auto: true }],
  // Dashboards of a test's own, stopped however it ends.
  dashboards: async ({}, use) => {
    const started = [];
    await use({
      async on(clickhouse, database) {
        const dashboard = await startDashboard(clickhouse, database);
        started.push(dashboard);
        return dashboard;
      },
    });
    for (const dashboard of started) await dashboard.stop();
  },
});

export const card = (page, name) => page.locator(`#${name}`);
export const state = (page, name) => card(page, name).locator(".state");
export const value = (page, name, label) => card(page, name).locator(".legend button", { has: page.getByText(label, { exact: true }) }).locator(".value");
export const tile = (page, label) => page.locator(".strip > div", { has: page.locator("dt", { hasText: new RegExp(`^${label}$`) }) });

export async function open(page, query, origin = DASHBOARD) {
  await page.goto(`${origin}/${query}`);
  await expect(page.locator("#volume .plot canvas")).toBeVisible();
}
