"""A whole device on Eclipse Paho: asks the registrar where it belongs, connects there, asks again when told to move.

usage: paho_device.py ID HOST PORT 3|5   (the registrar's MQTT address, and MQTT 3.1.1 or 5)
"""
import json
import sys
import urllib.parse

import paho.mqtt.client as mqtt

ID, HOST, PORT, VERSION = sys.argv[1:]
PROTOCOL = mqtt.MQTTv5 if VERSION == "5" else mqtt.MQTTv311


def talk(host, port, topic, on_message, on_subscribed):
    """Stays connected and subscribed to one topic until `on_message` disconnects, or the broker refuses us."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=ID, protocol=PROTOCOL)
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
    talk(HOST, PORT, f"reg/resp/{ID}", take, lambda c: c.publish(f"reg/query/{ID}", qos=1))
    say("answer", **answers[-1])
    gateway = urllib.parse.urlsplit(answers[-1]["gateway"]["endpoints"][0])
    talk(gateway.hostname, gateway.port, f"ctrl/{ID}/migrate", obey, lambda c: say("connected", id=answers[-1]["gateway"]["id"]))
