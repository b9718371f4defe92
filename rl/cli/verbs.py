"""Which module implements which command: names and one-line helps, without importing a verb.

Called by :func:`rl.__main__.main` to find the verb, and by :mod:`rl.cli.clicked` to list them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: module below rl.cli, the words that call it, one line of help. The first name is the one help shows;
#: names of one word are commands of `rl` itself. A further name of the same noun is a silent alias.
VERBS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("artifact.add", ("artifact add",), "Make an artifact of files"),
    ("artifact.extract", ("artifact extract",), "Write the files of an artifact"),
    ("artifact.inspect", ("artifact inspect",), "Show all that is known of an artifact"),
    ("artifact.ls", ("artifact ls", "artifact list"), "List artifacts"),
    ("artifact.pull", ("artifact pull",), "Pull an artifact from a registry"),
    ("artifact.push", ("artifact push",), "Push an artifact to a registry"),
    ("artifact.rm", ("artifact rm",), "Remove artifacts"),
    ("container.attach", ("attach", "container attach"), "Attach to a running container"),
    ("container.cleanup", ("container cleanup",), "Free what containers that have ended left behind"),
    ("container.clone", ("container clone",), "Make a container like another one"),
    ("container.commit", ("commit", "container commit"), "Make an image of a container"),
    ("container.cp", ("cp", "container cp"), "Copy files between containers and the host"),
    ("container.create", ("create", "container create"), "Create but do not start a container"),
    ("container.diff", ("diff",), "Show what changed in a container or an image"),
    ("container.diff_container", ("container diff",), "Show what a container has changed"),
    ("container.exec", ("exec", "container exec"), "Run a command in a running container"),
    ("container.exists", ("container exists",), "Tell by the exit code whether a container exists"),
    ("container.export", ("export", "container export"), "Write a container's root file system as a tar archive"),
    ("container.init", ("init", "container init"), "Prepare containers up to the start of their command"),
    ("container.inspect", ("container inspect",), "Show all that is known of a container"),
    ("container.kill", ("kill", "container kill"), "Send a signal to running containers"),
    ("container.logs", ("logs", "container logs"), "Show what containers have written"),
    ("container.mount", ("mount", "container mount"), "Mount the root file systems of containers"),
    ("container.pause", ("pause", "container pause"), "Stop all processes of containers where they are"),
    ("container.port", ("port", "container port"), "List published ports"),
    ("container.prune", ("container prune",), "Remove all containers that do not run"),
    ("container.ps", ("ps", "container ls", "container list", "container ps"), "List containers"),
    ("container.rename", ("rename", "container rename"), "Give a container another name"),
    ("container.restart", ("restart", "container restart"), "Stop containers and start them again"),
    ("container.rm", ("rm", "container rm"), "Remove containers"),
    ("container.run", ("run", "container run"), "Run a command in a new container"),
    ("container.runlabel", ("container runlabel",), "Run the command that a label of an image holds"),
    ("container.start", ("start", "container start"), "Start containers"),
    ("container.stats", ("stats", "container stats"), "Show what containers use of processor, memory, network, disks"),
    ("container.stop", ("stop", "container stop"), "Stop running containers"),
    ("container.top", ("top", "container top"), "Show the processes of a container"),
    ("container.unmount", ("unmount", "umount", "container unmount", "container umount"),
     "Unmount the root file systems of containers"),
    ("container.unpause", ("unpause", "container unpause"), "Let paused containers go on"),
    ("container.update", ("update", "container update"), "Change the limits of a container"),
    ("container.wait", ("wait", "container wait"), "Wait for containers to end and print their exit codes"),
    ("healthcheck.run", ("healthcheck run",), "Run the health check of a container now"),
    ("image.build", ("build", "image build"), "Build an image from a Containerfile"),
    ("image.diff", ("image diff",), "Show what an image has changed"),
    ("image.exists", ("image exists",), "Tell by the exit code whether an image exists"),
    ("image.history", ("history", "image history"), "Show how an image was made"),
    ("image.images", ("images", "image ls", "image list"), "List images"),
    ("image.import_", ("import", "image import"), "Make an image from an archive of a file system"),
    ("image.inspect", ("image inspect",), "Show all that is known of an image"),
    ("image.load", ("load", "image load"), "Load images from an archive"),
    ("image.mount", ("image mount",), "Mount the file systems of images"),
    ("image.prune", ("image prune",), "Remove images that nothing uses"),
    ("image.pull", ("pull", "image pull"), "Pull images from a registry"),
    ("image.push", ("push", "image push"), "Push an image to a registry or an archive"),
    ("image.rmi", ("rmi", "image rm"), "Remove images"),
    ("image.save", ("save", "image save"), "Save images to an archive"),
    ("image.search", ("search", "image search"), "Search registries for images"),
    ("image.sign", ("image sign",), "Sign images in registries"),
    ("image.tag", ("tag", "image tag"), "Give an image a further name"),
    ("image.tree", ("image tree",), "Show the layers of an image"),
    ("image.trust", ("image trust",), "Show or change which images are accepted"),
    ("image.unmount", ("image unmount", "image umount"), "Unmount the file systems of images"),
    ("image.untag", ("untag", "image untag"), "Take names away from an image"),
    ("manifest.add", ("manifest add",), "Add images to a manifest list"),
    ("manifest.annotate", ("manifest annotate",), "Change what a manifest list says of an entry"),
    ("manifest.create", ("manifest create",), "Make a manifest list"),
    ("manifest.exists", ("manifest exists",), "Tell by the exit code whether a manifest list exists"),
    ("manifest.inspect", ("manifest inspect",), "Print a manifest list"),
    ("manifest.push", ("manifest push",), "Push a manifest list to a registry"),
    ("manifest.remove", ("manifest remove",), "Take an entry out of a manifest list"),
    ("manifest.rm", ("manifest rm",), "Remove manifest lists"),
    ("secret.create", ("secret create",), "Keep a secret"),
    ("secret.exists", ("secret exists",), "Tell by the exit code whether a secret exists"),
    ("secret.inspect", ("secret inspect",), "Show all that is known of secrets, but not what they hold"),
    ("secret.ls", ("secret ls", "secret list"), "List secrets"),
    ("secret.rm", ("secret rm",), "Remove secrets"),
    ("system.check", ("system check",), "Check all that is stored, and repair it"),
    ("system.completion", ("completion",), "Print the completion script for a shell"),
    ("system.df", ("system df",), "Show what images, containers and volumes take on the disk"),
    ("system.events", ("events", "system events"), "Show what happens, as it happens"),
    ("system.gc", ("gc",), "Free what nothing uses, and what can be had again"),
    ("system.help", ("help",), "Show help about a command"),
    ("system.info", ("info", "system info"), "Show what this host and this rl can do"),
    ("system.inspect", ("inspect",), "Show all that is known of a container, an image or a volume"),
    ("system.login", ("login",), "Log in to a registry"),
    ("system.logout", ("logout",), "Log out of a registry"),
    ("system.migrate", ("system migrate",), "Bring containers to this version of rl"),
    ("system.own", ("own",), "Take files back that containers left to subordinate ids"),
    ("system.prune", ("system prune",), "Remove all that nothing uses"),
    ("system.renumber", ("system renumber",), "Renumber locks, of which there are none"),
    ("system.reset", ("system reset",), "Remove everything: containers, images, volumes, secrets"),
    ("system.unshare", ("unshare", "system unshare"), "Run a command inside the user namespace of the containers"),
    ("system.upgrade_monitors", ("system upgrade-monitors",), "Let this rl take over the monitors of containers"),
    ("system.version", ("version",), "Show versions"),
    ("volume.create", ("volume create",), "Create a volume"),
    ("volume.exists", ("volume exists",), "Tell by the exit code whether a volume exists"),
    ("volume.export", ("volume export",), "Write the files of a volume as a tar archive"),
    ("volume.import_", ("volume import",), "Unpack a tar archive into a volume"),
    ("volume.inspect", ("volume inspect",), "Show all that is known of volumes"),
    ("volume.ls", ("volume ls", "volume list"), "List volumes"),
    ("volume.mount", ("volume mount",), "Mount a volume and print where its files are"),
    ("volume.prune", ("volume prune",), "Remove the volumes that no container uses"),
    ("volume.reload", ("volume reload",), "Take over the volumes of volume plugins"),
    ("volume.rename", ("volume rename",), "Give a volume another name"),
    ("volume.rm", ("volume rm", "volume remove"), "Remove volumes"),
    ("volume.unmount", ("volume unmount", "volume umount"), "Take a mounted volume down"),
)

NOUNS = {
    "artifact": "Manage artifacts: files under a name, in registries, too",
    "container": "Manage containers",
    "healthcheck": "Run health checks of containers",
    "image": "Manage images",
    "manifest": "Manage manifest lists: one name for several platforms",
    "secret": "Manage secrets",
    "system": "Manage rl itself",
    "volume": "Manage volumes",
}


def find(words: Sequence[str]) -> tuple[str, int]:
    """(module, number of words that named it) for a command line that begins with *words*; ("", 0): none."""
    count = 2 if words[0] in NOUNS else 1
    name = " ".join(words[:count])
    for module, names, _ in VERBS:
        if name in names:
            return module, count
    return "", 0


def names_of(name: str) -> tuple[str, ...]:
    """All names of the command that has the full name *name*."""
    return next((names for _, names, _ in VERBS if name in names), ())


def listing(noun: str = "") -> list[tuple[str, str]]:
    """(verb, help) of each command of `rl` itself, or of *noun*; aliases left out."""
    found = []
    for _, names, help_line in VERBS:
        for name in names:
            first, _, second = name.partition(" ")
            if noun and first == noun and second:
                found.append((second, help_line))
                break
            if not noun and not second:
                found.append((first, help_line))
                break
    return sorted(found if noun else found + list(NOUNS.items()))
