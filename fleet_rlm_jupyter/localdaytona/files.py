"""The routes below /files: how files get in and out of a sandbox; runs inside it."""

import asyncio
import errno
import fnmatch
import grp
import os
import pwd
import re
import shutil
import stat
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from io import FileIO

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.multipart import MultipartStream
from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.wire import DAEMON, ApiError, error_body, parse_object, timestamp

_CHUNK = 256 * 1024
_BOUNDARY = "DAYTONA-FILE-BOUNDARY"
_SEARCHED_BYTES = 10 << 20  # larger files are not searched
_PATH_LIMIT = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def file_error(err: OSError, path: str) -> ApiError:
    """What Daytona's daemon answers for this error, so that the SDK raises its own class."""
    if err.errno in (errno.ENOENT, errno.ENOTDIR):
        return ApiError(404, "FILE_NOT_FOUND", f"{path}: no such file or directory")
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ApiError(403, "FILE_ACCESS_DENIED", f"{path}: {os.strerror(err.errno)}")
    if err.errno in _FULL:
        return ApiError(400, "BAD_REQUEST", f"{path}: No space left on device")
    return ApiError(400, "INVALID_FILE_PATH", f"{path}: {err.strerror or err}")


class FileRoutes:
    """Relative paths start at the work dir. Everything is done as the sandbox's own user."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/files", self._list)
        app.router.add_delete("/files", self._delete)
        app.router.add_get("/files/info", self._info)
        app.router.add_get("/files/search", self._search)
        app.router.add_get("/files/find", self._find)
        app.router.add_get("/files/download", self._download)
        app.router.add_post("/files/folder", self._folder)
        app.router.add_post("/files/move", self._move)
        app.router.add_post("/files/permissions", self._permissions)
        app.router.add_post("/files/replace", self._replace)
        app.router.add_post("/files/upload-v2", self._upload)
        app.router.add_post("/files/bulk-upload", self._bulk_upload)
        app.router.add_post("/files/bulk-download", self._bulk_download)

    def _path(self, request: web.Request, name: str = "path") -> str:
        given = request.query.get(name)
        if not given and name != "path":
            raise ApiError(400, "INVALID_FILE_PATH", f"the query lacks {name}")
        return self._checked(given)

    def _checked(self, path: object) -> str:
        if isinstance(path, str) and len(path) > _PATH_LIMIT:
            raise ApiError(400, "INVALID_FILE_PATH", f"a path has at most {_PATH_LIMIT} characters")
        return self._processes.resolve(path)

    async def _list(self, request: web.Request) -> web.Response:
        folder = self._path(request)
        try:
            depth = max(int(request.query.get("depth", "1")), 1)
        except ValueError as err:
            raise ApiError(400, "BAD_REQUEST", "depth must be a number") from err
        try:
            found = await asyncio.to_thread(lambda: list(_entries(folder, depth)))
        except OSError as err:
            raise file_error(err, folder) from err
        return web.json_response(found)

    async def _info(self, request: web.Request) -> web.Response:
        path = self._path(request)
        try:
            return web.json_response(_entry(path))
        except OSError as err:
            raise file_error(err, path) from err

    async def _folder(self, request: web.Request) -> web.Response:
        path = self._path(request, "path")
        mode = _mode(request.query.get("mode") or "755")
        try:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
        except OSError as err:
            raise ApiError(400, "BAD_REQUEST", f"{path}: {err.strerror}") from err
        return web.Response(status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        path = self._path(request)
        recursive = request.query.get("recursive", "").lower() == "true"
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                if not recursive:
                    raise ApiError(400, "BAD_REQUEST", f"{path} is a directory: set recursive to delete it")
                await asyncio.to_thread(shutil.rmtree, path)
            else:
                os.unlink(path)
        except OSError as err:
            raise file_error(err, path) from err
        return web.Response(status=204)

    async def _move(self, request: web.Request) -> web.Response:
        source, destination = self._path(request, "source"), self._path(request, "destination")
        if os.path.lexists(destination) and not os.path.isdir(destination):
            raise ApiError(409, "CONFLICT", f"{destination} exists already")
        try:
            await asyncio.to_thread(_rename, source, destination)
        except (OSError, shutil.Error) as err:
            raise file_error(err if err.errno else OSError(errno.EINVAL, str(err)), source) from err
        return web.Response()

    async def _permissions(self, request: web.Request) -> web.Response:
        path = self._path(request)
        try:
            if mode := request.query.get("mode"):
                os.chmod(path, _mode(mode))
            owner, group = request.query.get("owner"), request.query.get("group")
            if owner:
                shutil.chown(path, user=owner)
            if group:
                shutil.chown(path, group=group)
        except LookupError as err:
            raise ApiError(400, "BAD_REQUEST", f"no such user or group: {err}") from err
        except OSError as err:
            raise file_error(err, path) from err
        return web.Response()

    async def _search(self, request: web.Request) -> web.Response:
        folder, pattern = self._path(request), request.query.get("pattern", "*")

        def search() -> list[str]:
            return [path for path in _walk(folder) if fnmatch.fnmatch(os.path.basename(path), pattern)]

        return web.json_response({"files": await asyncio.to_thread(search)})

    async def _find(self, request: web.Request) -> web.Response:
        folder, pattern = self._path(request), _pattern(request.query.get("pattern"))
        return web.json_response(await asyncio.to_thread(lambda: list(_matches(folder, pattern))))

    async def _replace(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        names, new = body.get("files"), body.get("newValue")
        pattern = _pattern(body.get("pattern"))
        if not isinstance(names, list) or not isinstance(new, str):
            raise ApiError(400, "BAD_REQUEST", "files must be a list and newValue a string")
        results: list[dict[str, object]] = []
        for name in names:
            path = self._checked(name)
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
                with open(path, "w", encoding="utf-8") as file:
                    file.write(pattern.sub(lambda _: new, text))
                results.append({"file": name, "success": True})
            except (OSError, UnicodeDecodeError) as err:
                results.append({"file": name, "success": False, "error": str(err)})
        return web.json_response(results)

    async def _upload(self, request: web.Request) -> web.Response:
        path = self._path(request)
        stream = MultipartStream(request.headers.get("Content-Type", ""), request.content)
        async for _ in stream.parts():
            await _store(stream, path)
        return web.json_response({"name": os.path.basename(path), "path": path, "type": "file"})

    async def _bulk_upload(self, request: web.Request) -> web.Response:
        stream = MultipartStream(request.headers.get("Content-Type", ""), request.content)
        errors: list[str] = []
        stored: list[dict[str, object]] = []
        paths: dict[str, str] = {}  # "files[0]" → where it goes; the sync SDK sends all of these first
        async for part in stream.parts():
            index, _, kind = part.name.rpartition(".")
            if kind == "path":
                raw = b"".join([piece async for piece in stream.data()])
                paths[index] = raw.decode("utf-8", "replace")
                continue
            try:
                resolved = self._checked(paths.get(index) or part.filename)
                stored.append({"path": resolved, "bytes": await _store(stream, resolved)})
            except ApiError as err:
                errors.append(err.message)
                if err.code == "BAD_REQUEST":
                    break  # nothing more will fit, or the stream is broken
                async for _ in stream.data():
                    pass
        answer: dict[str, object] = {"files": stored}
        if errors:
            return web.json_response({**answer, "errors": errors}, status=400)
        return web.json_response(answer)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request)
        try:
            file = _open_regular(path)
        except OSError as err:
            raise file_error(err, path) from err
        with file:
            size = os.fstat(file.fileno()).st_size
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = size
            await response.prepare(request)
            await _send(response, file, size)
        return response

    async def _bulk_download(self, request: web.Request) -> web.StreamResponse:
        paths = parse_object(await request.read()).get("paths")
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise ApiError(400, "BAD_REQUEST", "paths must be a list of paths")
        response = web.StreamResponse()
        response.headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        await response.prepare(request)
        for path in paths:
            try:
                file = _open_regular(self._checked(path))
            except (OSError, ApiError) as err:
                problem = err if isinstance(err, ApiError) else file_error(err, path)
                body = error_body(problem, DAEMON, request.method, request.path)
                await response.write(_part_head("error", path, "application/json", len(body)) + body + b"\r\n")
                continue
            with file:
                size = os.fstat(file.fileno()).st_size
                await response.write(_part_head("file", path, "application/octet-stream", size))
                await _send(response, file, size)
                await response.write(b"\r\n")
        await response.write(f"--{_BOUNDARY}--\r\n".encode())
        await response.write_eof()
        return response


def _rename(source: str, destination: str) -> None:
    """As Daytona's daemon, copy only where the system cannot rename, and not where a volume refuses to."""
    os.lstat(source)
    if os.path.isdir(destination):
        destination = os.path.join(destination, os.path.basename(source))
    try:
        os.rename(source, destination)
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        shutil.move(source, destination)


async def _store(stream: MultipartStream, path: str) -> int:
    """Write one part to `path`, with its parents; returns the number of bytes."""
    total = 0
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb", buffering=0) as file:
            async for piece in stream.data():
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
                total += len(piece)
    except OSError as err:
        raise file_error(err, path) from err
    return total


def _open_regular(path: str) -> FileIO:
    file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return file


async def _send(response: web.StreamResponse, file: FileIO, size: int) -> None:
    """Send exactly `size` bytes; a file that shrinks meanwhile ends the connection, so that the client sees it."""
    left = size
    while left:
        piece = file.read(min(_CHUNK, left))
        if not piece:
            raise ConnectionResetError("the file became shorter while it was sent")
        left -= len(piece)
        await response.write(piece)


def _part_head(name: str, path: str, kind: str, size: int) -> bytes:
    plain = path.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    plain = "".join(char if char.isprintable() else "?" for char in plain)
    quoted = urllib.parse.quote(path, safe="")
    return (
        f"--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="{plain}"; filename*=utf-8\'\'{quoted}\r\n'
        f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def _entry(path: str) -> dict[str, object]:
    info = os.stat(path) if os.path.exists(path) else os.lstat(path)
    modified = timestamp(info.st_mtime)
    return {
        "name": os.path.basename(path) or "/",
        "path": path,
        "isDir": stat.S_ISDIR(info.st_mode),
        "size": info.st_size,
        "mode": stat.filemode(info.st_mode),
        "permissions": f"{stat.S_IMODE(info.st_mode):04o}",
        "owner": _name(pwd.getpwuid, info.st_uid),
        "group": _name(grp.getgrgid, info.st_gid),
        "modTime": modified,
        "modifiedAt": modified,
    }


def _name(look_up: Callable[[int], Sequence[object]], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _entries(folder: str, depth: int) -> Iterator[dict[str, object]]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        try:
            entry = _entry(path)
        except FileNotFoundError:
            continue
        yield entry
        if depth > 1 and entry["isDir"] and not os.path.islink(path):
            yield from _entries(path, depth - 1)


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        for name in sorted(folders) + sorted(names):
            yield os.path.join(parent, name)


def _matches(folder: str, pattern: re.Pattern[str]) -> Iterator[dict[str, object]]:
    for path in [folder] if os.path.isfile(folder) else _walk(folder):
        if not os.path.isfile(path) or os.path.getsize(path) > _SEARCHED_BYTES:
            continue
        try:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if pattern.search(line):
                        yield {"file": path, "line": number, "content": line.rstrip("\n")}
        except (OSError, UnicodeDecodeError):  # unreadable or binary: not searched
            continue


def _pattern(text: object) -> re.Pattern[str]:
    if not isinstance(text, str) or not text:
        raise ApiError(400, "BAD_REQUEST", "pattern must be a string")
    try:
        return re.compile(text)
    except re.error as err:
        raise ApiError(400, "BAD_REQUEST", f"the pattern is not a regular expression: {err}") from err


def _mode(text: str) -> int:
    try:
        return int(text, 8) & 0o7777
    except ValueError as err:
        raise ApiError(400, "BAD_REQUEST", f"{text} is not an octal mode") from err
