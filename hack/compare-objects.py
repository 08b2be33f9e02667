#!/usr/bin/env python3
"""Reads every list of every version from two apiservers on one store and prints where the objects differ.

compare-objects.py PORT_OF_UPSTREAM PORT_OF_OURS   (TOKEN in the environment)
"""

import http.client
import json
import os
import ssl
import sys

# Made anew by each server when asked.
TRANSIENT = {"componentstatuses"}


def get(port, path):
    """The code and body of a GET."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=300)
    connection.request("GET", path, headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def lists(port):
    """The paths of everything that can be listed."""
    groups = get(port, "/apis")[1]["groups"]
    versions = ["/api/v1"] + ["/apis/" + version["groupVersion"] for group in groups for version in group["versions"]]
    for version in versions:
        code, document = get(port, version)
        for resource in document["resources"] if code == 200 else []:
            if "/" not in resource["name"] and "list" in resource["verbs"] and resource["name"] not in TRANSIENT:
                yield version + "/" + resource["name"]


def differences(left, right, path=""):
    """Paths at which two trees differ, and what is there."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys()):
            yield from differences(left.get(name, "<absent>"), right.get(name, "<absent>"), f"{path}/{name}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right)):
            yield from differences(one, other, f"{path}/{index}")
    elif left != right:
        try:
            # Annotations that hold JSON: the order of its members is no difference.
            if json.loads(left) == json.loads(right):
                return
        except (TypeError, ValueError):
            pass
        yield f"{path}: {json.dumps(left)[:200]} | {json.dumps(right)[:200]}"


def main():
    upstream, ours = (int(port) for port in sys.argv[1:3])
    objects = wrong = 0
    known = set(lists(ours))
    for path in lists(upstream):
        if path not in known:
            continue
        (code, left), (other, right) = get(upstream, path), get(ours, path)
        if (code, other) != (200, 200):
            print(f"{path}: {code} | {other}")
            wrong += 1
            continue
        def name(found):
            return found["metadata"].get("namespace", ""), found["metadata"]["name"]

        by_name = [{name(found): found for found in answer["items"]} for answer in (left, right)]
        for key in sorted(by_name[0].keys() | by_name[1].keys()):
            one, two = (found.get(key, "<absent>") for found in by_name)
            # Written between the two reads.
            if "<absent>" not in (one, two) and one["metadata"]["resourceVersion"] != two["metadata"]["resourceVersion"]:
                continue
            objects += 1
            for difference in differences(one, two):
                print(path, *key, difference)
                wrong += 1
    print(f"{objects} objects, {wrong} differences")
    return wrong > 0


sys.exit(main())
