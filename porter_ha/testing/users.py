"""What users of a simulated cluster do while things go wrong: Services and pods come, move and go, pools are edited."""

from porter_ha.testing.faults import Fault, Faults


async def new_service(faults: Faults) -> str:
    world, random = faults.world, faults.random
    await world.control.answers()
    nodes = {n.name for n in world.nodes.values() if n.serving}
    chosen = set(random.sample(sorted(nodes), random.randint(min(2, len(nodes)), len(nodes)))) if nodes else set()
    pool = "tiny" if random.random() < 0.2 else ""
    return world.create_service(local=random.random() < 0.5, nodes=chosen, pool=pool)


async def old_service(faults: Faults) -> str:
    await faults.world.control.answers()
    if len(faults.world.endpoints) < 4:
        return "none"
    key = faults.random.choice(sorted(faults.world.endpoints))
    faults.world.delete_service(key)
    return key


async def moved_pods(faults: Faults) -> str:
    world, random = faults.world, faults.random
    await world.control.answers()
    key = random.choice(sorted(world.endpoints)) if world.endpoints else ""
    able = sorted(n.name for n in world.nodes.values() if n.serving)
    if not key or not able:
        return "none"
    world.set_endpoints(key, set(random.sample(able, random.randint(min(2, len(able)), len(able)))))
    return key


async def edited_pool(faults: Faults) -> str:
    """Shrinking, disabling and deleting a pool moves nobody."""
    api, random = faults.world.api, faults.random
    await faults.world.control.answers()
    choice = random.choice(["shrink", "disable", "delete"])
    if choice == "delete":
        thing = api.table("eips")["", "tiny"]
        api.delete("eips", ("", "tiny"))
        await faults.pause(0.5, 3.0)
        api.create("eips", {"metadata": {"name": "tiny"}, "spec": thing["spec"]})
        return choice
    key, before = ("", "pool"), api.table("eips")["", "pool"]["spec"]
    api.change("eips", key, {"spec": {"disable": True} if choice == "disable" else {"address": "203.0.113.8/29"}})
    await faults.pause(0.5, 3.0)
    api.change("eips", key, {"spec": {"disable": False, "address": before["address"]}})
    return choice


USER_FAULTS: tuple[Fault, ...] = (
    new_service,
    new_service,
    new_service,
    old_service,
    moved_pods,
    moved_pods,
    edited_pool,
)
