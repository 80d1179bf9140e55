"""Status 400: the request cannot be carried out as it stands."""

from __future__ import annotations

from files_api.kit.errors.base import AppError


class InvalidRequest(AppError):
    """The request cannot be carried out as it stands."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class InvalidJson(InvalidRequest):
    """The request body is not valid JSON."""

    code = "invalid_json"


class MissingDocument(InvalidRequest):
    """The request names no document: send document_url, image_url, file_id or document_content."""

    code = "missing_document"


class InvalidFileId(InvalidRequest):
    """A file id is a UUID, as the upload answered it."""

    code = "invalid_file_id"


class InvalidBase64(InvalidRequest):
    """The inline document is not valid base64."""

    code = "invalid_base64"


class InvalidLink(InvalidRequest):
    """The signed URL given as a document is expired, altered, or its file is gone."""

    code = "invalid_signed_url"


class UnsupportedFormat(InvalidRequest):
    """The document is not in a supported format: PDF, PNG, JPEG, WEBP, GIF, BMP, TIFF."""

    code = "unsupported_format"


class DocumentEmpty(InvalidRequest):
    """The document has no bytes or no pages."""

    code = "document_empty"


class DocumentDamaged(InvalidRequest):
    """The document is damaged and cannot be opened."""

    code = "document_damaged"


class DocumentEncrypted(InvalidRequest):
    """The document is protected by a password; remove the protection and send it again."""

    code = "document_encrypted"


class TooManyPages(InvalidRequest):
    """The document has more pages than one request may read; select some with `pages`."""

    code = "too_many_pages"


class PagesOutOfRange(InvalidRequest):
    """None of the requested pages exists in the document."""

    code = "pages_out_of_range"


class ImageTooLarge(InvalidRequest):
    """The image has more pixels than this server decodes."""

    code = "image_too_large"


class DocumentTooComplex(InvalidRequest):
    """A page of the document takes more time or memory to draw than this server allows."""

    code = "document_too_complex"


class ModelUnknown(InvalidRequest):
    """No model of this name exists here."""

    code = "model_not_found"


class ModelUnavailable(InvalidRequest):
    """The model is known here, but no server runs it."""

    code = "model_unavailable"


class AnnotationUnsupported(InvalidRequest):
    """The model cannot annotate documents."""

    code = "annotation_not_supported"


class ContextTooLong(InvalidRequest):
    """The page and its prompt are longer than the model's context: shorten the prompt."""

    code = "context_too_long"


class AnswerTooLarge(InvalidRequest):
    """The answer would be larger than this server sends: select fewer pages, or fewer pictures."""

    code = "answer_too_large"


class UploadClosed(InvalidRequest):
    """The upload is completed, cancelled or expired; it takes nothing more."""

    code = "upload_closed"


class UploadIncomplete(InvalidRequest):
    """The parts do not make up the file: some are unknown, or its size or md5 does not fit."""

    code = "upload_incomplete"


class FetchRefused(InvalidRequest):
    """The document URL is not allowed: only public http and https addresses are fetched."""

    code = "fetch_refused"


class FetchFailed(InvalidRequest):
    """The document URL could not be fetched."""

    code = "fetch_failed"
