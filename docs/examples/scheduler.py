"""A scheduler in twenty lines: engines in turn, reads on either side in turn."""

import json
import sys

pes, des, block_tokens, made = [], [], 0, 0
for line in sys.stdin:
    said = json.loads(line)
    answer = {"type": "decided", "decisions": []}
    if said["type"] == "hello":
        cluster = said["cluster"]
        pes = [engine["name"] for engine in cluster["engines"] if engine["side"] == "pe"]
        des = [engine["name"] for engine in cluster["engines"] if engine["side"] == "de"]
        block_tokens = cluster["block_tokens"]
        answer = {"type": "ready", "version": 1, "traits": {"layerwise": True, "quota_s": 0.3}}
    elif said["type"] == "arrived":
        request, blocks = said["request"], said["request"]["hit_tokens"] // block_tokens
        reads = [{"side": ["pe", "de"][made % 2], "first": 0, "count": blocks}] if blocks else []
        pe, de = pes[made % len(pes)], des[made % len(des)]
        made += 1
        decision = {"seq": made, "request_id": request["id"], "pe": pe, "de": de, "reads": reads}
        answer["decisions"].append(decision)
    print(json.dumps(answer), flush=True)
