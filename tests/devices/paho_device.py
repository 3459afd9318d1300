"""A whole device on Eclipse Paho: asks the registrar where it belongs, connects there, asks again when told to move.

usage: paho_device.py ID HOST PORT 3|5 [--key KEY] [--ca FILE]   (the registrar's MQTT address, and MQTT 3.1.1 or 5)

With --key, the device's key in base64 is its password at the registrar; its ticket, where it was given one, is that at the
gateway. With --ca, it speaks TLS only, and trusts the authorities in that file.
"""
import argparse
import json
import urllib.parse

import paho.mqtt.client as mqtt

parser = argparse.ArgumentParser()
parser.add_argument("id")
parser.add_argument("host")
parser.add_argument("port")
parser.add_argument("version", choices=["3", "5"])
parser.add_argument("--key")
parser.add_argument("--ca")
OPTIONS = parser.parse_args()
ID = OPTIONS.id
PROTOCOL = mqtt.MQTTv5 if OPTIONS.version == "5" else mqtt.MQTTv311
SCHEME = "mqtts" if OPTIONS.ca else "mqtt"


def talk(host, port, password, topic, on_message, on_subscribed):
    """Stays connected and subscribed to one topic until `on_message` disconnects, or the broker refuses us."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=ID, protocol=PROTOCOL)
    if OPTIONS.ca:
        client.tls_set(OPTIONS.ca)
    if password:
        client.username_pw_set(ID, password)
    client.on_connect = lambda c, _, __, code, ___: c.disconnect() if code.is_failure else c.subscribe(topic, qos=1)
    client.on_subscribe = lambda c, *_: on_subscribed(c)
    client.on_message = lambda c, _, message: on_message(c, json.loads(message.payload))
    client.connect(host, int(port))
    client.loop_forever()


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def take(client, message):
    answers.append(message)
    client.disconnect()


def obey(client, notice):
    if notice["epoch"] > answers[-1]["epoch"]:
        say("notice", **notice)
        client.disconnect()


answers = []
while True:
    query = lambda c: c.publish(f"reg/query/{ID}", qos=1)
    talk(OPTIONS.host, OPTIONS.port, OPTIONS.key, f"reg/resp/{ID}", take, query)
    answer = answers[-1]
    say("answer", **answer)
    endpoints = map(urllib.parse.urlsplit, answer["gateway"]["endpoints"])
    gateway = next(endpoint for endpoint in endpoints if endpoint.scheme == SCHEME)
    connected = lambda c: say("connected", id=answer["gateway"]["id"])
    talk(gateway.hostname, gateway.port, answer.get("ticket"), f"ctrl/{ID}/migrate", obey, connected)
