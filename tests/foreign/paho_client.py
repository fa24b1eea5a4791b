"""Eclipse Paho's client against a broker: paho_client.py PORT VERSION, VERSION being 4 or 5.

Says `ok NAME` for each thing that worked and ends with the first that did not. The file is not
called paho.py, which would hide the library.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT = int(sys.argv[1])
FIVE = sys.argv[2] == "5"
PATIENCE = 30


class Client:
    def __init__(self, name, persistent=False, will=None):
        options = {} if FIVE else {"clean_session": not persistent}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311,
            **options,
        )
        self.persistent = persistent
        self.connected = queue.Queue()
        self.subscribed = queue.Queue()
        self.messages = queue.Queue()
        self.mqtt.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((flags, code))
        self.mqtt.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subscribed.put(codes)
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        if will:
            self.mqtt.will_set(will, f"{name} is gone", qos=1, retain=True)

    def connect(self):
        options = {}
        if FIVE:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if self.persistent else 0
            options = {"clean_start": not self.persistent, "properties": properties}
        self.mqtt.connect("127.0.0.1", PORT, keepalive=30, **options)
        self.mqtt.loop_start()
        flags, code = self.connected.get(timeout=PATIENCE)
        assert not code.is_failure, code
        return flags.session_present

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        codes = self.subscribed.get(timeout=PATIENCE)
        assert [code.value for code in codes] == [qos], codes

    def publish(self, topic, payload, qos, **options):
        info = self.mqtt.publish(topic, payload, qos, **options)
        info.wait_for_publish(PATIENCE)
        assert info.is_published(), f"{topic} at QoS {qos} was not acknowledged"

    def next(self):
        return self.messages.get(timeout=PATIENCE)

    def take(self, count):
        return [self.next().payload.decode() for _ in range(count)]

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def every_qos():
    client = Client("paho")
    client.connect()
    client.subscribe("paho/+", 2)
    for qos in (0, 1, 2):
        for n in range(50):
            client.publish(f"paho/{n}", str(n), qos)
        assert client.take(50) == [str(n) for n in range(50)]
    client.close()


def retained():
    client = Client("paho")
    client.connect()
    client.publish("state/door", "open", 1, retain=True)
    late = Client("paho-late")
    late.connect()
    late.subscribe("state/#", 1)
    message = late.next()
    assert (message.payload, message.retain) == (b"open", True)
    client.publish("state/door", b"", 1, retain=True)
    assert (late.next().retain) is False
    late.close()
    late.connect()
    late.subscribe("state/#", 1)
    late.publish("state/last", "last", 1)
    assert late.take(1) == ["last"], "it was cleared"
    late.close()
    client.close()


def will():
    watcher = Client("paho-watcher")
    watcher.connect()
    watcher.subscribe("gone/#", 1)
    victim = Client("paho-victim", will="gone/victim")
    victim.connect()
    victim.mqtt.loop_stop()
    victim.mqtt.socket().close()
    assert watcher.take(1) == ["paho-victim is gone"]
    polite = Client("paho-polite", will="gone/polite")
    polite.connect()
    polite.close()
    watcher.publish("gone/last", "last", 1)
    assert watcher.take(1) == ["last"], "a goodbye has no will"
    late = Client("paho-late")
    late.connect()
    late.subscribe("gone/+", 1)
    assert late.next().retain, "the will was to be retained"
    late.close()
    watcher.publish("gone/victim", b"", 1, retain=True)
    watcher.close()


def session():
    kept = Client("paho-kept", persistent=True)
    assert not kept.connect()
    kept.subscribe("kept", 2)
    kept.close()
    publisher = Client("paho-publisher")
    publisher.connect()
    # The library hands a message of QoS 2 over when it is released: behind later ones of QoS 1.
    for n in range(40):
        publisher.publish("kept", str(n), 1 + n // 20)
    assert kept.connect(), "the session is there"
    assert kept.take(40) == [str(n) for n in range(40)]
    kept.close()
    publisher.close()
    kept.persistent = False
    if FIVE:
        assert not kept.connect(), "a clean start has no session"
        kept.close()


def shared():
    """Each message of a group goes to one member, and every member has its part."""
    members = [Client(f"paho-member-{n}") for n in range(3)]
    for member in members:
        member.connect()
        member.subscribe("$share/crew/work/+", 1)
    publisher = Client("paho-publisher")
    publisher.connect()
    for n in range(60):
        publisher.publish(f"work/{n}", str(n), 1)
    got = []
    deadline = time.monotonic() + PATIENCE
    while len(got) < 60 and time.monotonic() < deadline:
        for member in members:
            while not member.messages.empty():
                got.append((member, int(member.next().payload)))
    assert sorted(n for _, n in got) == list(range(60)), got
    shares = [sum(1 for one, _ in got if one is member) for member in members]
    assert min(shares) >= 10, shares
    for client in [*members, publisher]:
        client.close()


def request_and_response():
    """Only MQTT 5: properties arrive as they were sent, options are kept."""
    if not FIVE:
        return
    server = Client("paho-server")
    server.connect()
    server.subscribe("ask", 1)
    client = Client("paho-client")
    client.connect()
    client.mqtt.subscribe("#", options=SubscribeOptions(qos=1, noLocal=True))
    client.subscribed.get(timeout=PATIENCE)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "answer/7"
    properties.CorrelationData = b"\x00\xff seven"
    properties.UserProperty = [("a", "1"), ("a", "2"), ("b", "")]
    client.publish("ask", "how many?", 1, properties=properties)
    question = server.next().properties
    assert question.UserProperty == [("a", "1"), ("a", "2"), ("b", "")]
    answer = Properties(PacketTypes.PUBLISH)
    answer.CorrelationData = question.CorrelationData
    server.publish(question.ResponseTopic, "seven", 1, properties=answer)
    message = client.next()
    assert message.topic == "answer/7", "its own question does not come back"
    assert message.properties.CorrelationData == b"\x00\xff seven"
    client.close()
    server.close()


for check in (every_qos, retained, will, session, shared, request_and_response):
    check()
    print("ok", check.__name__, flush=True)
print("done", flush=True)
