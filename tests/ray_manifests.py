"""What KubeRay 1.6 and later take of a RayCluster and a RayJob, as far as our manifests use it.

Kubernetes drops a field that it does not know without a word, so a misspelt one is the mistake to look for: every
object here names all that it may hold. Written by hand after KubeRay's published custom resource definitions.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Schema:
    """An object that must hold some fields, may hold others, and nothing else."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
IMAGE: Schema = {"type": "string", "pattern": r"^[a-z0-9./-]+:[\w.-]+$"}
REFERENCE = _object({"secretKeyRef": _object({"name": TEXT, "key": TEXT})})
ENVIRONMENT = _object({"name": TEXT}, {"value": {"type": "string"}, "valueFrom": REFERENCE})
MOUNT = _object({"name": TEXT, "mountPath": TEXT}, {"readOnly": {"type": "boolean"}})
VOLUME = _object(
    {"name": TEXT},
    {
        "configMap": _object({"name": TEXT}),
        "emptyDir": _object({"medium": {"const": "Memory"}, "sizeLimit": TEXT}),
        "persistentVolumeClaim": _object({"claimName": TEXT}),
    },
)
CONTAINER = _object(
    {"name": TEXT, "image": IMAGE, "resources": _object({"requests": TEXTS, "limits": TEXTS})},
    {
        "env": _list(ENVIRONMENT),
        "ports": _list(_object({"containerPort": COUNT, "name": TEXT})),
        "volumeMounts": _list(MOUNT),
    },
)
TOLERATION = _object({"key": TEXT, "operator": {"enum": ["Exists", "Equal"]}, "effect": TEXT}, {"value": TEXT})
POD = _object(
    {
        "spec": _object(
            {"containers": _list(CONTAINER), "serviceAccountName": TEXT},
            {
                "volumes": _list(VOLUME),
                "nodeSelector": TEXTS,
                "tolerations": _list(TOLERATION),
                "terminationGracePeriodSeconds": COUNT,
            },
        )
    }
)
HEAD = _object({"rayStartParams": TEXTS, "template": POD, "serviceType": {"const": "ClusterIP"}})
WORKERS = _object(
    {
        "groupName": TEXT,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": TEXTS,
        "template": POD,
    },
    {"idleTimeoutSeconds": COUNT, "priority": {"type": "integer"}},
)
CLUSTER = _object(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": _object({"mode": {"const": "token"}}, {"secretName": TEXT}),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "headGroupSpec": HEAD,
        "workerGroupSpecs": _list(WORKERS),
    },
    {
        "autoscalerOptions": _object(
            {"version": {"const": "v2"}},
            {"upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]}, "idleTimeoutSeconds": COUNT},
        )
    },
)
METADATA = _object(
    {"name": {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}}, {"labels": TEXTS}
)
JOB = _object(
    {
        "entrypoint": TEXT,
        "entrypointNumCpus": {"const": 0},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        "suspend": {"type": "boolean"},
        "backoffLimit": COUNT,
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "rayClusterSpec": CLUSTER,
    },
    {"runtimeEnvYAML": TEXT},
)


def _document(kind: str, spec: Schema) -> Schema:
    return _object({"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec})


SCHEMAS: dict[str, Schema] = {"RayCluster": _document("RayCluster", CLUSTER), "RayJob": _document("RayJob", JOB)}


def broken_rules(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay's controller would refuse or do otherwise than meant, beyond the form of the fields."""
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec
    found = []
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append("trials would run on the head")
    if cluster["enableInTreeAutoscaling"] and "autoscalerOptions" not in cluster:
        found.append("autoscaler v1")
    for group in cluster["workerGroupSpecs"]:
        counts = [group[name] for name in ("minReplicas", "replicas", "maxReplicas")]
        if counts != sorted(counts):
            found.append(f"{group['groupName']} has counts {counts}")
        if not cluster["enableInTreeAutoscaling"] and len(set(counts)) > 1:
            found.append(f"{group['groupName']} would never grow: autoscaling is off")
    if manifest["kind"] == "RayJob":
        queued = "kueue.x-k8s.io/queue-name" in manifest["metadata"].get("labels", {})
        if queued and not (spec["suspend"] and not cluster["enableInTreeAutoscaling"]):
            found.append("Kueue admits only what is suspended and of one size")
        if spec["suspend"] and not spec["shutdownAfterJobFinishes"]:
            found.append("a job that does not shut down cannot be suspended")
    for template in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = template["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            lacking = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
            if lacking:
                found.append(f"{container['name']} mounts {sorted(lacking)}, which the pod does not have")
    return found
