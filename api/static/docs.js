// A file of its own, because the policy of the page allows no inline script.
const place = document.getElementById("swagger-ui");
window.ui = SwaggerUIBundle({
  url: place.dataset.url,
  domNode: place,
  deepLinking: true,
  validatorUrl: null, // it would ask a server elsewhere
  presets: [SwaggerUIBundle.presets.apis],
});
