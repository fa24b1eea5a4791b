// MQTT.js against a broker: mqttjs_client.js PORT VERSION, VERSION being 4 or 5. Says `ok NAME` for
// each thing that worked and ends with the first that did not.
'use strict';

const assert = require('node:assert');
const mqtt = require('mqtt');

const port = Number(process.argv[2]);
const protocolVersion = Number(process.argv[3]);
const five = protocolVersion === 5;
const PATIENCE = 30_000;

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`never: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

class Client {
  constructor(clientId, { persistent = false, will } = {}) {
    this.early = [];
    this.waiting = [];
    const properties = five && persistent ? { sessionExpiryInterval: 3600 } : undefined;
    this.mqtt = mqtt.connect({
      host: '127.0.0.1', port, protocolVersion, clientId, clean: !persistent, properties, will,
      keepalive: 30, reconnectPeriod: 50, manualConnect: true,
    });
    this.mqtt.on('message', (topic, payload, packet) => {
      const message = { topic, payload: payload.toString(), packet };
      const waiting = this.waiting.shift();
      if (waiting) waiting(message); else this.early.push(message);
    });
    this.mqtt.on('error', (error) => { throw error; });
  }

  async connect() {
    const connected = new Promise((resolve) => this.mqtt.once('connect', resolve));
    this.mqtt.connect();
    return (await within(connected, 'CONNACK')).sessionPresent;
  }

  async subscribe(topic, qos, more = {}) {
    const granted = await within(this.mqtt.subscribeAsync(topic, { qos, ...more }), 'SUBACK');
    assert.strictEqual(granted[0].qos, qos);
  }

  publish(topic, payload, qos, more = {}) {
    return within(this.mqtt.publishAsync(topic, payload, { qos, ...more }), `${topic} ${payload}`);
  }

  next() {
    const message = this.early.shift();
    if (message) return Promise.resolve(message);
    return within(new Promise((resolve) => this.waiting.push(resolve)), 'a message');
  }

  async take(count) {
    const payloads = [];
    for (let n = 0; n < count; n += 1) payloads.push((await this.next()).payload);
    return payloads;
  }

  close() { return within(this.mqtt.endAsync(), 'its end'); }
}

const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));

const checks = {
  async every_qos() {
    const client = new Client('js');
    await client.connect();
    await client.subscribe('js/+', 2);
    for (const qos of [0, 1, 2]) {
      for (const n of numbers(50)) await client.publish(`js/${n}`, n, qos);
      assert.deepStrictEqual(await client.take(50), numbers(50));
    }
    await client.close();
  },

  async retained() {
    const client = new Client('js');
    await client.connect();
    await client.publish('state/lamp', 'on', 1, { retain: true });
    const late = new Client('js-late');
    await late.connect();
    await late.subscribe('state/#', 1);
    const { payload, packet } = await late.next();
    assert.deepStrictEqual([payload, packet.retain], ['on', true]);
    await client.publish('state/lamp', '', 1, { retain: true });
    assert.strictEqual((await late.next()).packet.retain, false);
    await late.close();
    await client.close();
  },

  async will() {
    const watcher = new Client('js-watcher');
    await watcher.connect();
    await watcher.subscribe('gone/#', 1);
    const will = { topic: 'gone/victim', payload: Buffer.from('gone'), qos: 1, retain: false };
    const victim = new Client('js-victim', { will });
    await victim.connect();
    victim.mqtt.options.reconnectPeriod = 0;
    victim.mqtt.stream.destroy();
    assert.deepStrictEqual(await watcher.take(1), ['gone']);
    const polite = new Client('js-polite', { will });
    await polite.connect();
    await polite.close();
    await watcher.publish('gone/last', 'last', 1);
    assert.deepStrictEqual(await watcher.take(1), ['last'], 'a goodbye has no will');
    await watcher.close();
  },

  async session() {
    const publisher = new Client('js-publisher');
    await publisher.connect();
    const kept = new Client('js-kept', { persistent: true });
    assert.strictEqual(await kept.connect(), false);
    await kept.subscribe('kept', 2);
    await kept.close();
    // The library hands a message of QoS 2 over when it is released: behind later ones of QoS 1.
    for (const n of numbers(40)) await publisher.publish('kept', n, Number(n) < 20 ? 1 : 2);
    const back = new Client('js-kept', { persistent: true });
    assert.strictEqual(await back.connect(), true);
    assert.deepStrictEqual(await back.take(40), numbers(40));
    await back.close();
    await publisher.close();
  },

  // The line breaks with messages under way: the library sends them again by itself.
  async reconnect() {
    const watcher = new Client('js-watcher');
    await watcher.connect();
    await watcher.subscribe('n', 2);
    const client = new Client('js-broken', { persistent: true });
    await client.connect();
    const sent = numbers(60).map((n) => {
      if (n === '30') client.mqtt.stream.destroy();
      return client.publish('n', n, 2);
    });
    await Promise.all(sent);
    const got = await watcher.take(60);
    assert.deepStrictEqual(got.map(Number).sort((a, b) => a - b).map(String), numbers(60));
    await watcher.publish('n', 'last', 1);
    assert.deepStrictEqual(await watcher.take(1), ['last'], 'nothing came twice');
    await client.close();
    await watcher.close();
  },

  // Each message of a group goes to one member, and every member has its part.
  async shared() {
    const members = ['one', 'two', 'three'].map((name) => new Client(`js-${name}`));
    const got = [];
    for (const member of members) {
      await member.connect();
      member.mqtt.on('message', (_, payload) => got.push([member, Number(payload)]));
      await member.subscribe('$share/crew/work/+', 1);
    }
    const publisher = new Client('js-publisher');
    await publisher.connect();
    for (const n of numbers(60)) await publisher.publish(`work/${n}`, n, 1);
    const all = new Promise((resolve) => {
      const look = setInterval(() => {
        if (got.length >= 60) { clearInterval(look); resolve(); }
      }, 5);
    });
    await within(all, '60 messages');
    assert.deepStrictEqual(got.map(([, n]) => n).sort((a, b) => a - b), numbers(60).map(Number));
    for (const member of members) {
      assert.ok(got.filter(([one]) => one === member).length >= 10, 'an even spread');
    }
    for (const client of [...members, publisher]) await client.close();
  },

  async request_and_response() {
    if (!five) return;
    const server = new Client('js-server');
    await server.connect();
    await server.subscribe('ask', 1);
    const client = new Client('js-client');
    await client.connect();
    await client.subscribe('#', 1, { nl: true });
    const properties = {
      responseTopic: 'answer/7',
      correlationData: Buffer.from([0, 255, 7]),
      userProperties: { a: ['1', '2'], b: 'x' },
    };
    await client.publish('ask', 'how many?', 1, { properties });
    const question = (await server.next()).packet.properties;
    assert.deepStrictEqual({ ...question.userProperties }, { a: ['1', '2'], b: 'x' });
    const { correlationData } = question;
    await server.publish(question.responseTopic, 'seven', 1, { properties: { correlationData } });
    const answer = await client.next();
    assert.strictEqual(answer.topic, 'answer/7', 'its own question does not come back');
    assert.deepStrictEqual(answer.packet.properties.correlationData, Buffer.from([0, 255, 7]));
    await client.close();
    await server.close();
  },
};

(async () => {
  for (const [name, check] of Object.entries(checks)) {
    await check();
    console.log('ok', name);
  }
  console.log('done');
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
