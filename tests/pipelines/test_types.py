"""Types over the edges of the compiled graphs, as KFP's backend checks them when a task starts: its local runner does not.

The backend's driver turns a number, a truth value, a list or a mapping into a STRING where one is asked for, and refuses
every other difference.
"""

from __future__ import annotations

import pytest

from inranker_flow.config.cluster import ClusterConfig
from pipelines.compile import PIPELINES, compile_pipeline, read


def kind_of(constant):
    """The type that the backend sees in a constant."""
    kinds = {
        bool: "BOOLEAN",
        str: "STRING",
        dict: "STRUCT",
        list: "LIST",
        int: "NUMBER_INTEGER",
        float: "NUMBER_DOUBLE",
    }
    return kinds[type(constant)]


class Graph:
    """One DAG of a compiled pipeline: what its inputs, its tasks' outputs and the item of its own loop are."""

    def __init__(self, spec, name, component):
        self.spec, self.name = spec, name
        self.tasks = component["dag"]["tasks"]
        self.inputs = component.get("inputDefinitions", {})

    def component(self, task):
        return self.spec["components"][self.tasks[task]["componentRef"]["name"]]

    def parameter(self, given):
        """The type of what an input parameter is given."""
        if "componentInputParameter" in given:
            return self.inputs["parameters"][given["componentInputParameter"]]["parameterType"]
        if "taskOutputParameter" in given:
            source = given["taskOutputParameter"]
            outputs = self.component(source["producerTask"])["outputDefinitions"]["parameters"]
            return outputs[source["outputParameterKey"]]["parameterType"]
        if "taskFinalStatus" in given:
            return "TASK_FINAL_STATUS"
        return kind_of(given["runtimeValue"]["constant"])

    def artifact(self, given):
        """Title and whether it is a list, of what an input artifact is given."""
        if "componentInputArtifact" in given:
            return _artifact(self.inputs["artifacts"][given["componentInputArtifact"]])
        source = given["taskOutputArtifact"]
        outputs = self.component(source["producerTask"])["outputDefinitions"]["artifacts"]
        return _artifact(outputs[source["outputArtifactKey"]])


def _artifact(definition):
    return definition["artifactType"]["schemaTitle"], bool(definition.get("isArtifactList"))


def graphs(spec):
    yield Graph(spec, "root", spec["root"])
    for name, component in spec["components"].items():
        if "dag" in component:
            yield Graph(spec, name, component)


def mismatches(spec):
    """(graph, task, input, given, expected) of each edge that the backend would refuse."""
    for graph in graphs(spec):
        for task, body in graph.tasks.items():
            wanted = graph.component(task).get("inputDefinitions", {})
            given = body.get("inputs", {})
            for key, value in given.get("parameters", {}).items():
                expected = wanted["parameters"].get(key, {}).get("parameterType", "no input")
                found = graph.parameter(value)
                number = {found, expected} == {"NUMBER_INTEGER", "NUMBER_DOUBLE"}
                if expected not in (found, "STRING") and not number:
                    yield graph.name, task, key, found, expected
            for key, value in given.get("artifacts", {}).items():
                if graph.artifact(value) != _artifact(wanted["artifacts"][key]):
                    yield graph.name, task, key, graph.artifact(value), _artifact(wanted["artifacts"][key])
            items = body.get("parameterIterator", {}).get("items", {}).get("inputParameter")
            if items and wanted["parameters"][items]["parameterType"] != "LIST":
                yield graph.name, task, items, wanted["parameters"][items]["parameterType"], "LIST"


@pytest.fixture(scope="module", params=[*PIPELINES, "inranker with 3 workers"])
def spec(request, tmp_path_factory):
    name, *many = request.param.split(" with ")
    path = tmp_path_factory.mktemp("compiled") / "it.yaml"
    return read(compile_pipeline(name, path, ClusterConfig(workers=3 if many else 1)))[0]


def test_each_edge_has_the_type_that_its_consumer_expects(spec):
    assert list(mismatches(spec)) == []
