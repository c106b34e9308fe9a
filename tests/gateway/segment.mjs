// Make one call of every kind with Segment's own client: node tests/gateway/segment.mjs MODULES HOST WRITE_KEY
// MODULES is a folder in which npm has installed `@segment/analytics-node`. Prints how many calls were delivered.
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, host, writeKey] = process.argv.slice(2);
const { Analytics } = createRequire(resolve(modules, "package.json"))("@segment/analytics-node");

const analytics = new Analytics({ writeKey, host, maxEventsInBatch: 4, flushInterval: 100, maxRetries: 5 });
let delivered = 0;
const wrong = [];
analytics.on("error", (error) => wrong.push(error));
const sent = (error) => (error ? wrong.push(error) : (delivered += 1));

const timestamp = new Date(Date.UTC(2026, 10, 23, 8, 0, 0, 123));
const user = { userId: "u-17", timestamp };
analytics.track({ ...user, event: "Product Added", properties: { sku: "A-1", price: 129.9 }, messageId: "js-1" }, sent);
analytics.identify({ ...user, traits: { plan: "gold", phone: null }, messageId: "js-2" }, sent);
analytics.page({ ...user, category: "Shop", name: "Cart", messageId: "js-3" }, sent);
analytics.screen({ ...user, name: "Home", messageId: "js-4" }, sent);
analytics.group({ ...user, groupId: "g-1", traits: { size: 4 }, messageId: "js-5" }, sent);
analytics.alias({ userId: "u-17", previousId: "anon-1", messageId: "js-6", timestamp }, sent);
analytics.track({ anonymousId: "anon-1", event: "Seen", messageId: "js-7", timestamp }, sent);
analytics.track({ userId: "u-18", event: "Bare" }, sent);
await analytics.closeAndFlush({ timeout: 20000 });
for (const error of wrong) console.error(error);
console.log(`${delivered} delivered`);
process.exit(wrong.length ? 1 : 0);
