"""A cluster of a head without CPUs and a node with one, whose GCS keeps its state in Redis.

    python head_with_redis.py FOLDER GCS_PORT REDIS_PORT

Prints `up` when it is there. For each line that it reads it kills the GCS, starts it again three seconds later
and prints `again`. It ends at the end of its input.
"""

import os
import subprocess
import sys
import tempfile
import time

folder, port, redis_port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.environ |= {"RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}", "RAY_external_storage_namespace": f"raybench{port}"}
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
words = ["redis-server", "--port", redis_port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
redis = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=folder)

os.makedirs(os.path.join(tempfile.gettempdir(), "ray"), exist_ok=True)  # Ray notes the address there
from ray.cluster_utils import Cluster  # noqa: E402  # reads the environment

try:
    memory = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "gcs_server_port": port, "include_dashboard": False, "temp_dir": folder, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, **memory)
    cluster.wait_for_nodes()
    print("up", cluster.address, flush=True)
    for _ in sys.stdin:  # in the main thread: what another one starts dies with it
        cluster.head_node.kill_gcs_server()
        time.sleep(3)
        cluster.head_node.start_gcs_server()
        print("again", flush=True)
    cluster.shutdown()
finally:
    redis.kill()
