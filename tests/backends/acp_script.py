"""A small agent of the Agent Client Protocol, whose behaviour its argument and prompts name."""

AGENT = r"""
import json, os, subprocess, sys, threading, urllib.request

how = sys.argv[1]
servers = {}
written = threading.Lock()
answers = {}

def send(**message):
    with written:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

def update(session, **fields):
    send(method="session/update", params={"sessionId": session, "update": fields})

def say(session, text, **more):
    block = {"type": "text", "text": text}
    update(session, sessionUpdate="agent_message_chunk", content=block, **more)

bridges = {}

def start(server):
    env = {each["name"]: each["value"] for each in server["env"]}
    argv = [server["command"], *server["args"]]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

def post(session, method, params):
    [server] = servers[session]
    if "url" not in server:
        bridge = bridges.setdefault(session, None) or start(server)
        bridges[session] = bridge
        message = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
        bridge.stdin.write(json.dumps(message).encode() + b"\n")
        bridge.stdin.flush()
        return json.loads(bridge.stdout.readline())
    headers = {h["name"]: h["value"] for h in server["headers"]}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(server["url"], json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as reply:
        return json.loads(reply.read())

def call(session, number, name, arguments):
    title = f"mcp__x__{name}"
    update(session, sessionUpdate="tool_call", toolCallId=str(number), title=title, kind="other")
    reply = post(session, "tools/call", {"name": name, "arguments": arguments})
    return reply["result"]["content"][0]["text"]

def prompted(number, session, text):
    if "call twice" in text:
        both = [call(session, at, "get_time", {"at": at}) for at in (1, 2)]
        say(session, " and ".join(both))
    elif "own tool" in text:
        ask = {"sessionId": session, "options": [
            {"optionId": "yes", "kind": "allow_once"}, {"optionId": "no", "kind": "reject_once"}],
            "toolCall": {"toolCallId": "t", "kind": "execute", "title": "x_get_time"}}
        told = {"toolCallId": "t", "title": "x_get_time", "kind": "execute"}
        update(session, sessionUpdate="tool_call", **told)
        answers["ask"] = threading.Event()
        send(id="ask", method="session/request_permission", params=ask)
        answers["ask"].wait()
        say(session, answers["said"])
    elif "die" in text:
        say(session, "so far")
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(3)
    elif "servers" in text:
        say(session, json.dumps(servers[session]))
    elif "where" in text:
        say(session, json.dumps([os.getcwd(), os.listdir("."), dict(os.environ)]))
    elif "settings" in text:
        say(session, json.dumps(chosen))
    elif "JSON" in text:
        say(session, '{"a": 1}')
    else:
        say(session, text)
        meta = {"usage": {"inputTokens": 3, "outputTokens": 2}}
        say(session, "", _meta=meta)
    send(id=number, result={"stopReason": "end_turn"})

chosen = []
sessions = 0
for line in sys.stdin:
    message = json.loads(line)
    number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if method is None:
        answers["said"] = message["result"]["outcome"]["optionId"]
        answers["ask"].set()
    elif method == "initialize":
        if how == "dies":
            sys.exit("no such setting")
        http = {"http": how != "takes stdio alone"}
        takes = {"image": True, "audio": True, "embeddedContext": True}
        send(id=number, result={
            "agentInfo": {"name": "a", "version": "1.2"},
            "agentCapabilities": {
                "promptCapabilities": takes,
                "mcpCapabilities": http,
                "sessionCapabilities": {"close": {}, "delete": {}, "list": None},
            },
            "protocolVersion": 2 if how == "is newer" else 1,
            "authMethods": [{"id": "l", "name": "Login", "description": "Run `a login`"}],
        })
    elif method == "session/new":
        if how == "wants a login" and not os.path.exists(os.environ["LOGIN"]):
            send(id=number, error={"code": -32000, "message": "Authentication required"})
            continue
        sessions += 1
        session = f"s{sessions}"
        servers[session] = params["mcpServers"]
        if servers[session] and how != "is deaf to tools":
            post(session, "tools/list", {})
        efforts = [{"value": e} for e in ("off", "low", "high") if how == "thinks"]
        options = [{"name": "group", "options": [{"value": "big"}]}, {"value": "small"}]
        result = {"sessionId": session}
        if how != "has no models":
            result["configOptions"] = [
                {"id": "effort", "category": "thought_level", "options": efforts},
                {"id": "m", "category": "model", "options": options},
            ]
        result["modes"] = {"currentModeId": "yolo", "availableModes": [{"id": "default"}]}
        send(id=number, result=result)
    elif method == "authenticate":
        if params["methodId"] == "key":
            send(id=number, result={})
        else:
            send(id=number, error={"code": -32602, "message": "no such way"})
    elif method == "session/prompt":
        text = "".join(block["text"] for block in params["prompt"])
        threading.Thread(target=prompted, args=(number, params["sessionId"], text)).start()
    elif number is not None:
        chosen.append([method, params])
        send(id=number, result={})
"""
